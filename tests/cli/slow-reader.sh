# A reader that takes its time gets every byte.
vtok encode -q clip.mp4 whole.vtk
vtok encode -q clip.mp4 - | { sleep 1; head -c 5000; sleep 1; cat; } > slow.vtk
cmp whole.vtk slow.vtk && echo equal
