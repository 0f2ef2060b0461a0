# Nothing half-written stays, and the error says why.
vtok encode -q clip.mp4 whole.vtk
vtok encode -q clip.mp4 - > /dev/full
echo "code $?"
# A disk that fills up on the way, as a limit on the size of files.
(ulimit -f 1; vtok encode -q clip.mp4 out.vtk)
echo "code $?"
(ulimit -f 1; vtok decode -q whole.vtk out.mp4)
echo "code $?"
ls -A
