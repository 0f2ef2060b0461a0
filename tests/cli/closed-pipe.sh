# A reader that leaves is no error message.
{ vtok encode -q clip.mp4 -; echo "code $?" >&3; } 3>&1 1> >(head -c 1000 > /dev/null)
