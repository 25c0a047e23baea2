#!/bin/sh
# SPDX-License-Identifier: MIT
# Installs podstack, the command line of the Podstack GPU cloud, or takes it away again (see usage).
# It writes PREFIX/bin/podstack (a launcher), PREFIX/lib/podstack (podstack.py, its bytecode and a
# receipt of every file) and a line of $GITHUB_PATH where that is set. It changes no shell's start-
# up file, asks nothing, never calls sudo, and does nothing when cut off: only its last line acts.
set -eu

VERSION=1.0.0
ORIGIN=https://get.podstack.ai
MARK='# The podstack launcher, written by install.sh.'
line_end='
'

usage() {
    cat <<EOF
Install podstack $VERSION: curl -sSL $ORIGIN/cli | bash -s -- [options]

  --prefix DIR   put it into DIR/bin and DIR/lib/podstack
  --from FILE    install this podstack.py instead of downloading one
  --uninstall    take away what an earlier run installed
  --dry-run      only print what would be done
  --quiet        print nothing but errors
  --help         print this

Without --prefix: /usr/local for root, else ~/.local or ~, whichever's bin is on PATH.

  PODSTACK_INSTALL_URL   a mirror that has cli, podstack.py and podstack.py.sha256
  PODSTACK_SHA256        the checksum that podstack.py must have (then none is downloaded)
EOF
}

# -- words to the user, and the one door to every change

say() {
    [ -n "$quiet" ] || printf '%s\n' "$1" >&2
}

fail() {
    printf 'Error: %s\n' "$1" >&2
    exit "${2:-1}"
}

run() {
    if [ -n "$dry_run" ]; then printf '%s\n' "$*"; else "$@"; fi
}

# -- where it goes

# guarded PATH: what is there of it belongs to `owners`, and none but `trusted` may write to it, too
# (with `sticky` all may, into a directory where each can change just what is his own).
guarded() {
    there=$1
    while [ ! -e "$there" ]; do there=$(dirname "$there"); done
    # shellcheck disable=SC2012  # stat's options differ from system to system, these do not
    ls -ldnL "$there" 2>/dev/null | {
        read -r mode _ owner group _ || exit 1
        case " $owners " in *" $owner "*) ;; *) exit 1 ;; esac
        case $sticky$mode in yes?????????[tT]*) exit 0 ;; esac
        case "$mode $trusted " in
            ????????w*) exit 1 ;;
            ?????w*" $group "*) ;;
            ?????w*) exit 1 ;;
        esac
    }
}

# is_unswappable FILE: none but the user, root, and who calls sudo, can change or replace it.
is_unswappable() (
    owners="$uid 0 ${SUDO_UID-}" sticky=yes
    [ ! -L "$1" ] && guarded "$1" && guarded "$(dirname "$1")"
)

on_path() {
    case :$PATH: in *:"$1":*) ;; *) return 1 ;; esac
}

is_usable() {
    on_path "$1" && guarded "$1"
}

# fact NAME: the lines of that name in the receipt of what is installed.
fact() {
    [ ! -f "$receipt" ] || sed -n "s/^$1 //p" "$receipt"
}

choose_place() {
    uid=$(id -u) trusted='' sticky=''
    owners=$uid
    # Many systems make a group for each user; Debian gives /usr/local to group 50, its admins.
    [ "$(id -gn 2>&1)" != "$(id -un 2>&1)" ] || trusted=$(id -g)
    [ "$uid" != 0 ] || trusted='0 50'
    [ -n "${HOME-}" ] || eval "HOME=~$(id -un 2>/dev/null | tr -cd A-Za-z0-9._-)"
    case $HOME in /*) ;; *) fail "HOME must name your home directory" ;; esac
    if [ -n "$prefix" ]; then
        case $prefix in /*) ;; *) prefix=$PWD/$prefix ;; esac
        prefix=${prefix%/}
    elif [ "$uid" = 0 ]; then
        prefix=/usr/local
    else
        prefix=$HOME/.local
        receipt=$prefix/lib/podstack/receipt
        case $(fact launcher) in
            "$HOME/bin/podstack") prefix=$HOME ;;
            '') is_usable "$prefix/bin" || ! is_usable "$HOME/bin" || prefix=$HOME ;;
        esac
    fi
    bin=$prefix/bin lib=$prefix/lib/podstack
    [ "$prefix" != "$HOME" ] || lib=$HOME/.local/lib/podstack
    launcher=$bin/podstack receipt=$lib/receipt
    [ -z "$uninstall" ] || return 0
    earlier=$(fact launcher)
    [ "${earlier:-$launcher}" = "$launcher" ] ||
        fail "podstack is already installed as $earlier: uninstall it first (--uninstall)"
    { [ ! -e "$launcher" ] && [ ! -L "$launcher" ]; } || grep -qsxF "$MARK" "$launcher" ||
        fail "$launcher is another program, which this would replace.
Remove it, or choose another place: --prefix DIR"
    for folder in "$bin" "$lib" "$lib/__pycache__"; do
        [ "$uid" = 0 ] || guarded "$folder" ||
            fail "$there must be yours, and nobody else may write there.
Mend that (chmod go-w), or choose another place: --prefix DIR"
    done
}

# -- the Python that will run it

# behind PATH: the file at the end of a chain of symbolic links, found without running anything.
behind() {
    file=$1
    while [ -L "$file" ]; do
        target=$(readlink "$file")
        case $target in /*) file=$target ;; *) file=$(dirname "$file")/$target ;; esac
    done
    printf '%s/%s\n' "$(cd -P "$(dirname "$file")" && pwd)" "${file##*/}"
}

# probe PROGRAM: the real path of the Python that it starts, or why it does not serve. Root runs
# only what root alone can change, and nothing that goes when a user goes.
probe() {
    if [ "$uid" = 0 ]; then
        home=${HOME%/}  # empty where HOME is /, as for some services
        case $1 in
            /root/* | /home/* | /Users/* | /var/root/* | "${home:-/root}"/*)
                echo "it is in somebody's home" && return 1 ;;
        esac
        above=$1/
        while [ -n "$above" ]; do
            above=${above%/*}
            guarded "${above:-/}" || { echo "it is not root's alone" && return 1; }
        done
    fi
    "$1" -I -S -c 'import os, sys
if sys.version_info < (3, 6):
    sys.exit("it is older than 3.6")
import argparse, hashlib, http.server, json, py_compile, ssl, urllib.parse
print(os.path.realpath(sys.executable))' 2>&1 </dev/null
}

# Looks twice: pyenv's and asdf's shims start a Python after 170 ms of shell, and after their say.
find_python() {
    tried=''
    for name in "$(fact python)" python3 python3.14 python3.13 python3.12 python3.11 python3.10 \
        python3.9 python3.8 python3.7 python3.6 /usr/bin/python3 /usr/libexec/platform-python; do
        found=$(command -v "$name" 2>/dev/null) || continue
        case $found in /*) ;; *) continue ;; esac
        # Apple's stub opens a window where its developer tools are missing.
        [ "$found" != /usr/bin/python3 ] || [ ! -x /usr/bin/xcode-select ] ||
            xcode-select -p >/dev/null 2>&1 || continue
        answer=$(probe "$(behind "$found")") && python=${answer##*"$line_end"} &&
            answer=$(probe "$python") && return
        tried="$tried$line_end  $found: ${answer##*"$line_end"}"
    done
    fail "podstack needs Python 3.6 or newer, and none was found here${tried:+; tried:$tried}
Install one with your package manager (python3), then run this again"
}

# -- what will be installed

# fetch ADDRESS: what is there; with --from it is a file.
fetch() {
    if [ -n "$from" ]; then
        cat -- "$1" && return
        fail "cannot read $1; nothing was changed"
    fi
    authority=${1#*://} scheme=''
    case $1 in
        https://*) scheme=https ;;
        http://127.0.0.1[:/]* | http://localhost[:/]* | 'http://[::1]'[:/]*) scheme=http ;;
    esac
    case ${authority%%/*} in *@*) scheme='' ;; esac  # before an @ stands no host, but a password
    [ -n "$scheme" ] || fail "PODSTACK_INSTALL_URL must be an https:// address, not '$origin'"
    say "Downloading $1"
    if command -v curl >/dev/null; then  # no -o: a curl from a snap cannot write to /tmp
        curl -fsSL --proto "=$scheme" --proto-redir "=$scheme" --connect-timeout 20 \
            --max-time 300 --max-filesize 10000000 "$1"
    elif wget --version >/dev/null 2>&1; then  # busybox's has no --version, nor any TLS checks
        wget -q --max-redirect=0 --tries=2 --timeout=20 -O - "$1"
    else
        "$python" -I -S -c 'import sys, urllib.request as request
request.HTTPRedirectHandler.redirect_request = lambda *_: None
try:
    sys.stdout.buffer.write(request.urlopen(sys.argv[1], timeout=60).read(10000000))
except OSError as error:
    sys.exit(str(error))' "$1"
    fi || fail "cannot download $1; nothing was changed"
}

# obtain: the new podstack.py, verified and seen to start, into $new.
obtain() {
    beside=$(dirname "$0")/podstack.py
    if [ -z "$from" ] && [ "${0##*/}" = install.sh ] && [ -f "$beside" ]; then
        if is_unswappable "$beside"; then
            from=$beside
            say "Installing $beside"
        else
            printf 'Warning: %s is not taken, for others can change it; %s\n' "$beside" \
                "to take it all the same: --from FILE" >&2
        fi
    fi
    origin=${PODSTACK_INSTALL_URL:-$ORIGIN}
    [ -z "$from" ] || origin=$ORIGIN  # the receipt tells everybody: only what fetch has checked
    source=${from:-${origin%/}/podstack.py}
    fetch "$source" >"$new/podstack.py"
    sum=$("$python" -I -S -c 'import hashlib, sys
print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())' "$new/podstack.py")
    sums=$source.sha256
    if [ -n "${PODSTACK_SHA256-}" ]; then
        sums=PODSTACK_SHA256 wanted=$PODSTACK_SHA256
    elif [ -n "$from" ] && [ ! -f "$sums" ]; then
        wanted=$sum
    else
        wanted=$(fetch "$sums")
    fi
    wanted=$(printf '%s\n' "${wanted%% *}" | tr A-F a-f)
    case $wanted in '' | *[!0-9a-f]*) fail "$sums holds no checksum; nothing was changed" ;; esac
    [ "$sum" = "$wanted" ] ||
        fail "$source does not have the expected checksum; nothing was changed
  expected $wanted
  found    $sum"
    shown=$("$python" -I -S -B "$new/podstack.py" --version 2>&1) || :
    number=${shown#podstack }
    [ "$number" != "$shown" ] || fail "$source does not start with $python; nothing was changed
  ${shown##*"$line_end"}"
}

quoted() {
    printf '%s\n' "$1" | sed "s/'/'\\\\''/g; s/^/'/; s/\$/'/"
}

# compose: every other file as it will be installed, into $new. The bytecode has no docstrings,
# which nothing reads; it is read back, for py_compile takes a full disk for success.
compose() {
    tag=$("$python" -I -S -X no_debug_ranges -c 'import importlib.machinery, py_compile, sys
py_compile.compile(*sys.argv[1:], doraise=True, optimize=2)
importlib.machinery.SourcelessFileLoader("podstack", sys.argv[2]).get_code("podstack")
print(sys.implementation.cache_tag)' "$new/podstack.py" "$new/podstack.pyc" "$lib/podstack.py" \
        2>/dev/null) || fail "cannot write to $new; nothing was changed"
    bytecode=$lib/__pycache__/podstack.$tag.pyc
    fresh=$(for folder in "$lib/__pycache__" "$bin"; do
        while [ ! -d "$folder" ]; do
            printf '%s\n' "$folder"
            folder=$(dirname "$folder")
        done
    done)
    cat >"$new/podstack" <<EOF
#!/bin/sh
$MARK
# Renew: podstack update
# Remove: curl -sSL $ORIGIN/cli | bash -s -- --uninstall --prefix $(quoted "$prefix")
python=$(quoted "$python")
[ -x "\$python" ] || python=\$(command -v python3)
case \$python in /*) ;; *) python=/usr/libexec/platform-python ;; esac
[ -x "\$python" ] || {
    echo 'Error: podstack needs Python 3.6 or newer, and there is none: install python3' >&2
    exit 1
}
exec "\$python" -I -S -B $(quoted "$lib/start.py") "\$@"
EOF
    chmod 755 "$new/podstack"
    # An import leaves no garbage, and looking for it costs a twentieth of the start; what is there
    # then stays, so that no later look is for it either (3.6 has no freeze).
    cat >"$new/start.py" <<'EOF'
"""Starts podstack from its bytecode, which Python ignores where it does not fit."""
import gc
import sys

LIB = __file__.rpartition("/")[0]
gc.disable()
sys.path.insert(0, LIB)
try:
    import podstack
    if hasattr(gc, "freeze"):
        gc.freeze()
    gc.enable()
    podstack.run()
except KeyboardInterrupt:
    sys.exit(130)
except (EOFError, TypeError, ValueError):  # the bytecode is damaged
    import runpy
    runpy.run_path(LIB + "/podstack.py", run_name="__main__")
EOF
    cat >"$new/receipt" <<EOF
# What install.sh put here. To take it away: install.sh --uninstall
version $number
sha256 $sum
python $python
launcher $launcher
bytecode $bytecode
origin $origin
$(printf '%s\n' "$(fact made)" "$fresh" | LC_ALL=C sort -u | sed -n 's/^./made &/p')
EOF
}

# -- putting it there, and taking it away

# place: every file is complete beside its place before the first is renamed into it; old bytecode
# goes first, for Python takes it as fresh when time (in seconds) and size happen to agree.
place() {
    stage=$lib/.new.$$
    { run mkdir -p "$bin" "$lib/__pycache__" "$stage" && run cp -p "$new"/* "$stage"; } ||
        fail "cannot write to $prefix; nothing was changed"
    run mv -f "$stage/receipt" "$receipt"
    fresh=''
    run rm -f "$lib/__pycache__/"podstack.*.pyc
    run mv -f "$stage/podstack.py" "$lib/podstack.py"
    run mv -f "$stage/podstack.pyc" "$bytecode"
    run mv -f "$stage/start.py" "$lib/start.py"
    run mv -f "$stage/podstack" "$launcher"
    run rmdir "$stage"
    [ -n "$dry_run" ] ||
        say "podstack $number is installed${old:+ in place of $old}: $launcher (Python: $python)"
}

# take_away DIRECTORIES: those of them that are empty.
take_away() {
    printf '%s\n' "$1" | LC_ALL=C sort -r | while IFS= read -r folder; do
        [ ! -d "$folder" ] || run rmdir "$folder" 2>/dev/null || :
    done
}

# tell_path: add the directory where CI lets us, and name what the user's shell will find.
tell_path() {
    [ -z "${GITHUB_PATH-}" ] || grep -qsxF "$bin" "$GITHUB_PATH" ||
        run sh -c 'printf "%s\n" "$0" >>"$1"' "$bin" "$GITHUB_PATH"
    on_path "$bin" || case ${SHELL-} in
        */fish) say "So that your shell finds it, run: fish_add_path $bin" ;;
        */zsh) say "So that your shell finds it, add to ~/.zshrc: export PATH=\"$bin:\$PATH\"" ;;
        *) say "So that your shell finds it, add to ~/.profile: export PATH=\"$bin:\$PATH\"" ;;
    esac
    IFS=: warning='your shell finds another podstack first'
    for folder in $PATH; do
        other=$folder/podstack
        if [ "$folder" = "$bin" ]; then
            warning='this hides another podstack'
        elif [ -f "$other" ] && [ -x "$other" ] && [ "$(behind "$other")" != "$launcher" ]; then
            say "Warning: $warning: $other"
        fi
    done
    unset IFS
}

install() {
    find_python
    new=$(mktemp -d "${TMPDIR:-/tmp}/podstack.XXXXXX")
    stage=$new fresh='' old=$(fact version)
    trap 'rm -rf "$new" "$stage"; take_away "$fresh"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    obtain
    compose
    if cmp -s "$new/podstack" "$launcher" && [ -x "$launcher" ] && [ -f "$bytecode" ] &&
        cmp -s "$new/podstack.py" "$lib/podstack.py" && cmp -s "$new/start.py" "$lib/start.py" &&
        cmp -s "$new/receipt" "$receipt"; then
        say "podstack $number is installed already: $launcher"
    else
        place
    fi
    tell_path
    [ -n "$old$dry_run" ] || say "Next: podstack auth login"
}

remove() {
    if [ ! -f "$receipt" ]; then
        say "podstack is not installed here: there is no $receipt"
        return
    fi
    launcher=$(fact launcher) made=$(fact made)
    ! grep -qsxF "$MARK" "$launcher" || run rm -f "$launcher"
    run rm -rf "$lib/__pycache__/"podstack.*.pyc "$lib"/podstack.py "$lib"/start.py "$lib"/.new.* \
        "$receipt"
    take_away "$lib/__pycache__$line_end$made"
    [ -n "$dry_run" ] || say "podstack is gone from $launcher"
    [ ! -d "$HOME/.podstack" ] ||
        say "Kept: your settings and logins; to remove them: rm -r ~/.podstack"
}

main() {
    prefix='' from='' uninstall='' dry_run='' quiet=''
    while [ $# -gt 0 ]; do
        case $1 in
            --prefix | --from)
                [ -n "${2-}" ] || fail "$1 needs a value$line_end$(usage)" 2
                if [ "$1" = --prefix ]; then prefix=$2; else from=$2; fi
                shift ;;
            --prefix=?*) prefix=${1#*=} ;;
            --from=?*) from=${1#*=} ;;
            --uninstall) uninstall=yes ;;
            --dry-run) dry_run=yes ;;
            --quiet) quiet=yes ;;
            -h | --help) usage && exit 0 ;;
            *) fail "unknown option '$1'$line_end$(usage)" 2 ;;
        esac
        shift
    done
    umask 022
    unset PODSTACK_API_TOKEN  # nothing that this starts needs it
    choose_place
    if [ -n "$uninstall" ]; then remove; else install; fi
}

{ main "$@"; }
