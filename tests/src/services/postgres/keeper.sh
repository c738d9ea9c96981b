# keeper HOME PROGRAM [ARGUMENT…]: runs the program until stdin says with which signal to end it. When stdin just closes,
# whoever started us is gone, and the folder HOME goes too. On KILL the program's children go with it.
#
# `read` is a builtin that reaps nobody: until `wait` the program's id cannot belong to anybody else.

# Ctrl-C on a terminal reaches us too, and we have to outlive it to tidy up.
trap '' HUP INT QUIT TERM

home=$1
shift
"$@" &
server=$!
echo "$server" >&2
# Only the program and its children hold it now: it ends with them.
exec 2>/dev/null

read -r signal || signal=
if [ "$signal" = KILL ]; then
  kill -s STOP "$server"
  kill -s KILL "$server" $(cat "/proc/$server/task/$server/children")
else
  kill -s "${signal:-QUIT}" "$server"
fi
wait "$server"
if [ -z "$signal" ]; then rm -rf "$home"; fi
