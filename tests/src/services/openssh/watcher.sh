# watcher SERVER USER ID HOME: waits until stdin closes, which is when whoever started us is gone. Then ends the server, all
# that runs as the user, and removes the user and the folder.
trap '' HUP INT QUIT TERM

read -r _

connections=$(cat "/proc/$1/task/$1/children")
kill -s KILL "$1" $connections
for process in /proc/[0-9]*; do
  if [ "$(stat -c %u "$process")" = "$3" ]; then kill -s KILL "${process#/proc/}"; fi
done
userdel --force "$2"
rm -rf "$4"
