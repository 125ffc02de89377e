#!/bin/sh
# compare.sh OLD NEW < names: asks two resolvers for the same names, and prints those with different answers.
# OLD and NEW are ADDRESS:PORT. Each line of the input is a name and, if it is not A, a type. TTLs are not compared.
# The exit status is 1 when an answer differs.
differences=0

answer() {
    rdig +short "@$1" "$2" "$3" 2>/dev/null
    echo "exit status $?"
}

while read -r name type; do
    before=$(answer "$1" "$name" "${type:-A}" | sort)
    after=$(answer "$2" "$name" "${type:-A}" | sort)
    if [ "$before" != "$after" ]; then
        differences=1
        printf '%s %s\n  %s: %s\n  %s: %s\n' "$name" "${type:-A}" \
            "$1" "$(echo "$before" | tr '\n' ' ')" "$2" "$(echo "$after" | tr '\n' ' ')"
    fi
done
exit $differences
