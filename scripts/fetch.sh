# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: proton-stream contributors
#
# Sourced by scripts/deno and scripts/bun: the pinned binaries of npm packages.

# A failure inside $(...) stops the script too.
shopt -s inherit_errexit

# fetched NAME VERSION PACKAGE PATH: prints the file that holds the binary at
# PATH of PACKAGE@VERSION. It is fetched at first use into .cache/ of the
# checkout and put in place by one rename, so two that run at once do no harm.
fetched() {
  local name=$1 version=$2 package=$3 path=$4
  local cache file work
  cache=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.cache
  file=$cache/$name-$version
  if [[ ! -x $file ]]; then
    need npm "install Node.js 20 or newer, which brings it"
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/fetching-$name.XXXXXX")
    # shellcheck disable=SC2064 # the directory of now is meant
    trap "rm -rf '$work'" EXIT
    echo "Fetching $name $version from npm (once) ..." >&2
    # Without scripts: nothing but this one package is downloaded.
    npm install --prefix "$work" --ignore-scripts --no-save --no-package-lock --no-audit --no-fund \
      --no-update-notifier --loglevel=error "$package@$version" >&2
    chmod 755 "$work/node_modules/$package/$path"
    mv -f "$work/node_modules/$package/$path" "$file"
    rm -rf "$work"
    trap - EXIT
    echo "Fetched $name $version." >&2
  fi
  printf '%s\n' "$file"
}

# need COMMAND CURE: stops with one line where COMMAND is missing.
need() {
  command -v "$1" >/dev/null || {
    echo "Missing \"$1\": $2." >&2
    exit 69
  }
}

# machine: this machine's architecture as npm packages spell it.
machine() {
  case $(uname -s)-$(uname -m) in
    Linux-x86_64) echo x64 ;;
    Linux-aarch64) echo arm64 ;;
    *)
      echo "proton-stream runs on Linux on x86-64 and aarch64, not on $(uname -s) on $(uname -m)." >&2
      exit 69
      ;;
  esac
}
