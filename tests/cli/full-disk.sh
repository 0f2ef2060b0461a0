# Nothing half-written stays, and the error says why.
vtok encode -q clip.mp4 - > /dev/full
echo "code $?"
