# A signal midway: no output, no partial file, the shell's usual code.
set -m  # or background commands would ignore SIGINT
for signal in INT TERM; do
    mkfifo in.$signal
    vtok encode -q - out.vtk < in.$signal &
    exec 4> in.$signal
    head -c 10000 clip.mp4 >&4
    until ls .out.vtk.*.partial.vtk > /dev/null 2>&1; do sleep 0.1; done
    sleep 0.3
    kill -$signal $!
    wait $!
    echo "code $?"
    exec 4>&-
    rm in.$signal
done
ls -A | grep out.vtk || echo "nothing written"
