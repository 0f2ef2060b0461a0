# Folders that are not there, and one that is a file.
vtok encode -q clip.mp4 no/such/folder/out.vtk
echo "code $?"
vtok encode -q clip.mp4 clip.mp4/out.vtk
echo "code $?"
vtok encode -q clip.mp4 -o nowhere
echo "code $?"
