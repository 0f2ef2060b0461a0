for command in encode decode verify info; do
    case $command in encode) out=o.vtk ;; decode) out=o.mp4 ;; *) out= ;; esac
    vtok $command none.mp4 $out
    echo "code $?"
done
ls
