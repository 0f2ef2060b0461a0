# A text, an empty file, sound without pictures.
echo "no video" > text.mp4
: > empty.mp4
ffmpeg -v error -f lavfi -i sine=duration=0.2 sound.wav
for file in text.mp4 empty.mp4 sound.wav; do
    vtok encode -q $file out.vtk
    echo "code $?"
done
ls out.vtk 2> /dev/null || echo "nothing written"
