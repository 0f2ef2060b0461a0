# Two processes write one output: one of them wins, whole; the other says so.
vtok encode -q clip.mp4 out.vtk 2> one &
first=$!
vtok encode -q clip.mp4 out.vtk 2> two
second=$?
wait $first
echo $(($? + second))
cat one two
vtok verify out.vtk > verified && echo verified
ls -A | grep partial || echo "nothing left"
