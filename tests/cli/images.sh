# A picture is a video of one frame, and comes back as one.
ffmpeg -v error -i clip.mp4 -frames:v 1 -update 1 one.png
vtok encode -q one.png one.vtk && vtok decode -q one.vtk back.png
echo "code $?"
vtok decode -q one.vtk back.mp4 && ffmpeg -v error -i back.mp4 -f framemd5 - | grep -vc '^#'
vtok info one.vtk | grep -o '116x64'
vtok encode -q clip.mp4 two.vtk && vtok decode -q two.vtk two.png
echo "code $?"
