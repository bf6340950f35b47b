# The watchdog: reads from its standard input which process groups are alive, and ends them when
# that pipe closes with some left, which means that its parent died without doing so itself.
#
#   add GROUP SIGNAL   a group started; SIGNAL is what stops it gently
#   del GROUP          it ended
#   dir PATH           a temporary folder appeared
#   undir PATH         it was removed

trap '' HUP INT TERM
groups=
folders=
newline='
'

while read -r what rest; do
    case $what in
        add) groups="${rest% *}:${rest#* } $groups" ;; # the newest first
        del)
            kept=
            for group in $groups; do
                [ "${group%%:*}" = "$rest" ] || kept="$kept $group"
            done
            groups=$kept
            ;;
        dir) folders="$folders$rest$newline" ;;
        undir)
            kept=
            IFS=$newline
            for folder in $folders; do
                [ "$folder" = "$rest" ] || kept="$kept$folder$newline"
            done
            unset IFS
            folders=$kept
            ;;
    esac
done

# A dead process that nobody has collected yet does not count; without ps it does.
alive() {
    kill -s 0 -- "-$1" 2>/dev/null || return 1
    table=$(ps -A -o pgid= -o stat= 2>/dev/null) || return 0
    printf '%s\n' "$table" | grep -q "^ *$1  *[^Z ]"
}

for group in $groups; do
    kill -s "${group#*:}" -- "-${group%%:*}" 2>/dev/null
    tries=0
    while alive "${group%%:*}"; do
        tries=$((tries + 1))
        [ "$tries" -eq 50 ] && kill -s KILL -- "-${group%%:*}" 2>/dev/null
        [ "$tries" -ge 60 ] && break
        sleep 0.1
    done
done

IFS=$newline
for folder in $folders; do
    # Only what `processes::TemporaryFolder` made.
    case $folder in
        */ttlc-*) rm -rf -- "$folder" ;;
    esac
done
