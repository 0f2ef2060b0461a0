# A byte flipped: verify and decode say so with code 5; what is whole is decoded; --recover goes on after it.
vtok encode -q --gop 0.8 clip.mp4 whole.vtk
cp whole.vtk bad.vtk
printf '\377' | dd of=bad.vtk bs=1 seek=$(($(stat -c %s bad.vtk) / 2)) conv=notrunc status=none
vtok verify bad.vtk > /dev/null 2>&1
echo "verify $?"
vtok decode -q bad.vtk part.mkv --codec ffv1 2> /dev/null
echo "decode $?"
vtok decode -q --recover bad.vtk all.mkv --codec ffv1 2> /dev/null
echo "recover $?"
for file in part.mkv all.mkv; do
    ffmpeg -v error -i $file -f framemd5 - | grep -vc '^#'
done
