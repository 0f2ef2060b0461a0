# Input and output are one file: refused, even with -f, and under another name.
cp clip.mp4 kept.mp4
ln -s clip.mp4 link.mp4
vtok decode -qf clip.mp4 clip.mp4
echo "code $?"
vtok encode -qf clip.mp4 link.mp4
echo "code $?"
cmp clip.mp4 kept.mp4 && echo untouched
