# A fragmented mp4 that ends early looks whole to FFmpeg: what is there is kept, and the index tells that more was.
ffmpeg -v error -i clip.mp4 -c copy -movflags frag_keyframe+empty_moov whole.mp4
head -c $(($(stat -c %s whole.mp4) * 6 / 10)) whole.mp4 > cut.mp4
vtok encode -q cut.mp4 out.vtk 2> errors
echo "code $?"
wc -l < errors
vtok verify out.vtk > verified && echo verified
