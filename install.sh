#!/bin/sh
# SPDX-License-Identifier: MIT
# Installs podstack, the command line of the Podstack GPU cloud, or takes it away again.
#
#   curl -sSL https://get.podstack.ai/cli | bash
#   curl -sSL https://get.podstack.ai/cli | bash -s -- --uninstall
#   sh install.sh --from podstack.py --prefix /opt/podstack        # offline
#
# It writes PREFIX/bin/podstack (a launcher of a few lines) and PREFIX/lib/podstack (podstack.py,
# its bytecode, and a receipt that names every file). PREFIX is /usr/local for root, else ~/.local
# or ~. It changes no shell's start-up file, asks nothing and never calls sudo.
#
#   PODSTACK_INSTALL_URL   a mirror that has cli, podstack.py and podstack.py.sha256
#   PODSTACK_SHA256        the checksum that podstack.py must have (then none is downloaded)
#   GITHUB_PATH            set by GitHub Actions: the directory is added for the job's next steps
set -eu

VERSION=1.0.0
ORIGIN=https://get.podstack.ai
line_end='
'
MARK='# The podstack launcher, written by install.sh.'

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
EOF
}

# -- words to the user, and the one door to every change

say() {
    [ -n "$quiet" ] || printf '%s\n' "$*" >&2
}

fail() {
    printf 'Error: %s\n' "$*" >&2
    exit 1
}

run() {
    if [ -n "$dry_run" ]; then
        printf '%s\n' "$*"
    else
        "$@"
    fi
}

has() {
    command -v "$1" >/dev/null 2>&1
}

parse_arguments() {
    prefix='' from='' uninstall='' dry_run='' quiet=''
    while [ $# -gt 0 ]; do
        case $1 in
            --prefix | --from)
                [ -n "${2-}" ] || misused "$1 needs a value"
                if [ "$1" = --prefix ]; then prefix=$2; else from=$2; fi
                shift
                ;;
            --prefix=?*) prefix=${1#*=} ;;
            --from=?*) from=${1#*=} ;;
            --uninstall) uninstall=yes ;;
            --dry-run) dry_run=yes ;;
            --quiet) quiet=yes ;;
            -h | --help) usage && exit 0 ;;
            *) misused "unknown option '$1'" ;;
        esac
        shift
    done
}

misused() {
    printf 'Error: %s\n' "$1" >&2
    usage >&2
    exit 2
}

# -- where it goes

# guarded PATH UID GROUPS: PATH belongs to UID; nobody but members of GROUPS may write there, too.
guarded() {
    # shellcheck disable=SC2012  # stat's options differ from system to system, these do not
    ls -ldnL "$1" 2>/dev/null | {
        read -r mode _ owner group _ && [ "$owner" = "$2" ] || exit 1
        case "$mode $3 " in
            ????????w*) exit 1 ;;
            ?????w*" $group "*) ;;
            ?????w*) exit 1 ;;
        esac
    }
}

on_path() {
    case :$PATH: in *:"$1":*) ;; *) return 1 ;; esac
}

# own DIR: it is the user's, or can be made where only the user writes.
own() {
    existing=$1
    while [ ! -e "$existing" ]; do
        existing=$(dirname "$existing")
    done
    private=''  # the group of one member that many systems make for each user
    [ "$(id -gn 2>&1)" != "$(id -un 2>&1)" ] || private=$(id -g)
    guarded "$existing" "$uid" "$private"
}

find_home() {
    user=$(id -un 2>/dev/null) || fail "HOME is not set"
    case $user in *[!A-Za-z0-9._-]*) fail "HOME is not set" ;; esac
    eval "HOME=~$user"
    case $HOME in /*) ;; *) fail "HOME is not set" ;; esac
}

choose_place() {
    uid=$(id -u)
    [ -n "${HOME-}" ] || find_home
    if [ -n "$prefix" ]; then
        case $prefix in /*) ;; *) prefix=$PWD/$prefix ;; esac
        prefix=${prefix%/}
    elif [ "$uid" = 0 ]; then
        prefix=/usr/local
    else
        prefix=$HOME/.local
        earlier=$(sed -n 's/^launcher //p' "$prefix/lib/podstack/receipt" 2>/dev/null || :)
        if [ "$earlier" = "$HOME/bin/podstack" ]; then
            prefix=$HOME
        elif [ -z "$earlier" ] && ! { on_path "$prefix/bin" && own "$prefix/bin"; } &&
            on_path "$HOME/bin" && own "$HOME/bin"; then
            prefix=$HOME
        fi
    fi
    bin=$prefix/bin lib=$prefix/lib/podstack
    [ "$prefix" != "$HOME" ] || lib=$HOME/.local/lib/podstack
    launcher=$bin/podstack receipt=$lib/receipt
}

# fact NAME: the lines of that name in the receipt of what is installed.
fact() {
    [ ! -f "$receipt" ] || sed -n "s/^$1 //p" "$receipt"
}

is_ours() {
    [ -f "$1" ] && grep -qxF "$MARK" "$1"
}

check_place() {
    earlier=$(fact launcher)
    if [ -n "$earlier" ] && [ "$earlier" != "$launcher" ]; then
        fail "podstack is already installed as $earlier: uninstall it first (--uninstall)"
    fi
    if { [ -e "$launcher" ] || [ -L "$launcher" ]; } && ! is_ours "$launcher"; then
        fail "$launcher is another program, which this would replace.
Remove it, or choose another place: --prefix DIR"
    fi
    if [ "$uid" != 0 ] && ! own "$bin"; then
        fail "$bin must be yours, and nobody else may write there.
Mend that (chmod go-w), or choose another place: --prefix DIR"
    fi
}

# -- the Python that will run it

PROBE='import os, sys
if sys.version_info < (3, 6):
    sys.exit("it is older than 3.6")
try:
    import argparse, hashlib, http.server, json, py_compile, ssl, urllib.parse
except ImportError as error:
    sys.exit("it is incomplete: %s" % error)
print(os.path.realpath(sys.executable))'

# behind PATH: the file at the end of a chain of symbolic links, found without running anything.
behind() {
    file=$1
    while [ -L "$file" ]; do
        target=$(readlink "$file")
        case $target in /*) file=$target ;; *) file=$(dirname "$file")/$target ;; esac
    done
    printf '%s/%s\n' "$(cd -P "$(dirname "$file")" && pwd)" "${file##*/}"
}

# Root runs only what root alone can change, and nothing that goes when a user goes.
check_owner() {
    [ "$uid" = 0 ] || return 0
    home=${HOME%/}  # empty where HOME is /, as for some services
    case $1 in
        /root/* | /home/* | /Users/* | /var/root/* | "${home:-/root}"/*)
            echo "it is in somebody's home" && return 1
            ;;
    esac
    above=$1
    while guarded "$above" 0 '0 50'; do  # 50: Debian gives /usr/local to its group of admins
        [ "$above" != / ] || return 0
        above=$(dirname "$above")
    done
    echo "it is not root's alone" && return 1
}

# probe PROGRAM: the real path of the Python that it starts (pyenv's and asdf's shims start one
# after 170 ms of shell), or why it does not serve.
probe() {
    check_owner "$1" || return 1
    "$1" -I -S -c "$PROBE" 2>&1 </dev/null
}

find_python() {
    tried=''
    for name in "$(fact python)" python3 python3.14 python3.13 python3.12 python3.11 python3.10 \
        python3.9 python3.8 python3.7 python3.6 /usr/bin/python3 /usr/libexec/platform-python; do
        found=$(command -v "$name" 2>/dev/null) || continue
        case $found in /*) ;; *) continue ;; esac
        # Apple's stub opens a window where its developer tools are missing.
        if [ "$found" = /usr/bin/python3 ] && has xcode-select && ! xcode-select -p >/dev/null 2>&1; then
            continue
        fi
        if answer=$(probe "$(behind "$found")"); then
            python=${answer##*"$line_end"}  # above it a shim may have had its say
            ! answer=$(probe "$python") || return 0
        fi
        tried="$tried$line_end  $found: ${answer##*"$line_end"}"
    done
    fail "podstack needs Python 3.6 or newer, and none was found here${tried:+; tried:$tried}
Install one with your package manager (python3), then run this again"
}

# -- what will be installed

fetch() {
    scheme='' after=${1#*://}
    case $1 in
        https://*) scheme=https ;;
        http://127.0.0.1[:/]* | http://localhost[:/]* | 'http://[::1]'[:/]*) scheme=http ;;
    esac
    case ${after%%/*} in *@*) scheme='' ;; esac  # before an @ stands no host, but a password
    [ -n "$scheme" ] ||
        fail "PODSTACK_INSTALL_URL must be an https:// address, not '$origin'"
    say "Downloading $1"
    if has curl; then  # no -o: a curl from a snap cannot write to /tmp
        curl -fsSL --proto "=$scheme" --proto-redir "=$scheme" --connect-timeout 20 \
            --max-time 300 --max-filesize 10000000 "$1" >"$2"
    elif wget --version >/dev/null 2>&1; then  # busybox's has no --version, nor any TLS checks
        wget -q --max-redirect=0 --tries=2 --timeout=20 -O - "$1" >"$2"
    else
        "$python" -I -S -c 'import sys, urllib.request as r
class Opener(r.HTTPRedirectHandler):
    def redirect_request(self, *rest): return None
try:
    answer = r.build_opener(Opener).open(sys.argv[1], timeout=60)
    open(sys.argv[2], "wb").write(answer.read(10000000))
except OSError as error:
    sys.exit(str(error))' "$1" "$2"
    fi || fail "cannot download $1; nothing was changed"
}

checksum() {
    "$python" -I -S -c 'import hashlib, sys
print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())' "$1"
}

verify() {
    wanted=$(printf '%s\n' "${PODSTACK_SHA256-}" | tr A-F a-f)
    if [ -z "$wanted" ] && [ -f "$new/podstack.py.sha256" ]; then
        read -r wanted _ <"$new/podstack.py.sha256" || :
        [ ${#wanted} = 64 ] || fail "$source.sha256 holds no checksum; nothing was changed"
    fi
    sum=$(checksum "$new/podstack.py")
    if [ -n "$wanted" ] && [ "$sum" != "$wanted" ]; then
        fail "$source does not have the expected checksum; nothing was changed
  expected $wanted
  found    $sum"
    fi
}

# obtain: the new podstack.py, verified and seen to start, into $new.
obtain() {
    beside=$(dirname "$0")/podstack.py
    if [ -z "$from" ] && [ "${0##*/}" = install.sh ] && [ -f "$beside" ]; then
        from=$beside
    fi
    origin=${PODSTACK_INSTALL_URL:-$ORIGIN}
    origin=${origin%/}
    new=$(mktemp -d "${TMPDIR:-/tmp}/podstack.XXXXXX")
    if [ -n "$from" ]; then
        source=$from
        cp "$from" "$new/podstack.py" || fail "cannot read $from; nothing was changed"
        [ ! -f "$from.sha256" ] || cp "$from.sha256" "$new/podstack.py.sha256"
    else
        source=$origin/podstack.py
        fetch "$source" "$new/podstack.py"
        [ -n "${PODSTACK_SHA256-}" ] || fetch "$source.sha256" "$new/podstack.py.sha256"
    fi
    verify
    shown=$("$python" -I -S -B "$new/podstack.py" --version 2>&1) || :
    case $shown in
        'podstack '[0-9]*) number=${shown#podstack } ;;
        *) fail "$source does not start with $python; nothing was changed
  $(printf '%s\n' "$shown" | tail -n 1)" ;;
    esac
}

quoted() {
    printf '%s\n' "$1" | sed "s/'/'\\\\''/g; s/^/'/; s/\$/'/"
}

write_launcher() {
    cat <<EOF
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
}

write_start() {
    cat <<'EOF'
"""Starts podstack from its bytecode, which Python ignores where it does not fit."""

import gc
import sys

LIB = __file__.rpartition("/")[0]
gc.disable()  # an import leaves no garbage, and looking for it costs a twentieth of the start
sys.path.insert(0, LIB)
try:
    import podstack

    if hasattr(gc, "freeze"):  # not in 3.6; what is there now stays: no later look is for it
        gc.freeze()
    gc.enable()
    podstack.run()
except KeyboardInterrupt:
    sys.exit(130)
except (EOFError, TypeError, ValueError):  # the bytecode is damaged
    import runpy

    runpy.run_path(LIB + "/podstack.py", run_name="__main__")
EOF
}

# missing: the directories that have to be made, outermost first.
missing() {
    for folder in "$bin" "$lib"; do
        list=''
        while [ ! -d "$folder" ]; do
            list="$folder
$list"
            folder=$(dirname "$folder")
        done
        printf '%s' "$list"
    done | awk '!seen[$0]++'
}

# take_away: remove those of the directories, outermost first on stdin, that are empty.
take_away() {
    sed '1!G;h;$!d' | while read -r folder; do
        [ -z "$folder" ] || run rmdir "$folder" 2>/dev/null || :
    done
}

write_receipt() {
    cat <<EOF
# What install.sh put here. To take it away: install.sh --uninstall
version $number
sha256 $sum
python $python
launcher $launcher
bytecode $lib/__pycache__/podstack.$tag.pyc
EOF
    case $source in https://* | http://*) printf 'origin %s\n' "$origin" ;; esac
    { fact made && missing; } | sed 's/^/made /'
}

# -- putting it there

prepare() {
    tag=$("$python" -I -S -c 'import sys; print(sys.implementation.cache_tag)')
    write_launcher >"$new/podstack"
    write_start >"$new/start.py"
    write_receipt >"$new/receipt"
    chmod 755 "$new/podstack"
}

is_installed() {
    cmp -s "$new/podstack" "$launcher" && [ -x "$launcher" ] && [ -f "$(fact bytecode)" ] &&
        cmp -s "$new/podstack.py" "$lib/podstack.py" && cmp -s "$new/start.py" "$lib/start.py" &&
        cmp -s "$new/receipt" "$receipt"
}

# compile PYTHON SOURCE BYTECODE NAME, without docstrings, which nothing reads; reads it back, for
# py_compile takes a full disk for success.
compile() {
    "$1" -I -S -X no_debug_ranges -c 'import importlib.machinery, py_compile, sys
py_compile.compile(*sys.argv[1:4], doraise=True, optimize=2)
importlib.machinery.SourcelessFileLoader("podstack", sys.argv[2]).get_code("podstack")' \
        "$2" "$3" "$4" 2>/dev/null
}

put_beside() {
    run mkdir -p "$bin" "$lib/__pycache__" "$stage" &&
        run cp "$new/podstack.py" "$new/start.py" "$new/receipt" "$new/podstack" "$stage/" &&
        run chmod 644 "$stage/podstack.py" &&
        run compile "$python" "$stage/podstack.py" "$stage/podstack.pyc" "$lib/podstack.py"
}

# place: every file is complete beside its place before the first is renamed into it; old bytecode
# goes first, for Python takes it as fresh when time (in seconds) and size happen to agree.
place() {
    fresh=$(missing)
    stage=$lib/.new.$$
    put_beside || fail "cannot write to $prefix; nothing was changed"
    run mv -f "$stage/receipt" "$receipt"
    fresh=''
    run rm -f "$lib/__pycache__/"podstack.*.pyc
    run mv -f "$stage/podstack.py" "$lib/podstack.py"
    run mv -f "$stage/podstack.pyc" "$lib/__pycache__/podstack.$tag.pyc"
    run mv -f "$stage/start.py" "$lib/start.py"
    run mv -f "$stage/podstack" "$launcher"
    run rmdir "$stage"
}

append_line() {
    printf '%s\n' "$2" >>"$1"
}

# tell_path: add the directory where CI lets us, and name what the user's shell will find.
tell_path() {
    if [ -n "${GITHUB_PATH-}" ] && ! grep -qxF "$bin" "$GITHUB_PATH" 2>/dev/null; then
        run append_line "$GITHUB_PATH" "$bin"
    fi
    if ! on_path "$bin"; then
        case ${SHELL-} in
            */fish) say "So that your shell finds it, run: fish_add_path $bin" ;;
            */zsh) say "So that your shell finds it, add to ~/.zshrc: export PATH=\"$bin:\$PATH\"" ;;
            *) say "So that your shell finds it, add to ~/.profile: export PATH=\"$bin:\$PATH\"" ;;
        esac
    fi
    behind_ours=''
    IFS=:
    for folder in $PATH; do
        other=$folder/podstack
        if [ "$folder" = "$bin" ]; then
            behind_ours=yes
        elif [ ! -f "$other" ] || [ ! -x "$other" ] || [ "$(behind "$other")" = "$launcher" ]; then
            continue
        elif [ -n "$behind_ours" ]; then
            say "Warning: this hides another podstack: $other"
        else
            say "Warning: your shell finds another podstack first: $other"
        fi
    done
    unset IFS
}

install() {
    check_place
    find_python
    obtain
    prepare
    if is_installed; then
        say "podstack $number is installed already: $launcher"
        tell_path
        return
    fi
    old=$(fact version)
    place
    [ -z "$dry_run" ] || return 0
    say "podstack $number is installed${old:+ in place of $old}: $launcher (Python: $python)"
    tell_path
    say "Next: podstack auth login"
}

remove() {
    if [ ! -f "$receipt" ]; then
        say "podstack is not installed here: there is no $receipt"
        return
    fi
    launcher=$(fact launcher)
    folders=$(fact made)
    ! is_ours "$launcher" || run rm -f "$launcher"
    run rm -rf "$lib/__pycache__/"podstack.*.pyc "$lib/"podstack.py "$lib/"start.py "$lib/".new.*
    run rm -f "$receipt"
    printf '%s\n' "$folders" "$lib/__pycache__" | take_away
    [ -z "$dry_run" ] || return 0
    say "podstack is gone from $launcher"
    [ ! -d "$HOME/.podstack" ] ||
        say "Kept: your settings and logins; to remove them: rm -r ~/.podstack"
}

clean_up() {
    [ -z "$new" ] || rm -rf "$new"
    [ -z "$stage" ] || rm -rf "$stage"
    [ -z "$fresh" ] || printf '%s\n' "$fresh" "$lib/__pycache__" | take_away
}

main() {
    parse_arguments "$@"
    umask 022
    new='' stage='' fresh=''
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    choose_place
    if [ -n "$uninstall" ]; then remove; else install; fi
}

{ main "$@"; }
