# An output that exists is kept, unless -f is given.
echo mine > out.vtk
vtok encode -q clip.mp4 out.vtk
echo "code $?"
cat out.vtk
vtok encode -qf clip.mp4 out.vtk
echo "code $?"
vtok verify out.vtk > verified && echo verified
