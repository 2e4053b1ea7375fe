# Outlives the process that started a server, and ends the server when that process is gone.
#
# Standard input is a pipe whose other end only that process holds: however it ends, by SIGKILL
# too, the pipe closes. It writes `leave` when there is nothing to do (the server was stopped
# properly, or is to stay).
#
# $1: the directory with everything of the server. Runs as the server's user.
trap '' HUP INT TERM
dir=$1
read -r word
[ "$word" = leave ] && exit 0

command_of() {
    if [ -r "/proc/$1/cmdline" ]; then tr '\0' ' ' <"/proc/$1/cmdline"; else ps -o args= -p "$1"; fi
}
children_of() {
    if [ -r "/proc/$1/task/$1/children" ]; then cat "/proc/$1/task/$1/children"
    else ps -A -o pid=,ppid= | while read -r pid parent; do [ "$parent" = "$1" ] && echo "$pid"; done; fi
}

read -r postmaster <"$dir/data/postmaster.pid" 2>/dev/null || postmaster=
# A number left by a server that died may be somebody else's by now.
case "$postmaster:$(command_of "${postmaster:-0}" 2>/dev/null)" in
[0-9]*:*"$dir"*)
    # It may be frozen. An immediate shutdown, unlike SIGKILL, gives its shared memory back.
    kill -CONT $(children_of "$postmaster") "$postmaster" 2>/dev/null
    kill -QUIT "$postmaster" 2>/dev/null
    tries=0
    while kill -0 "$postmaster" 2>/dev/null && [ $tries -lt 50 ]; do
        tries=$((tries + 1))
        sleep 0.1
    done
    kill -KILL $(children_of "$postmaster") "$postmaster" 2>/dev/null
    ;;
esac
rm -rf "$dir"
