# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: proton-stream contributors
#
# Sourced by scripts/vm: QEMU, busybox and kernels from Debian packages. They
# are unpacked below .cache/vm/, by whoever asks; nothing is installed.

cache=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/.cache/vm

# unavailable WHAT: this machine cannot have the guest, and how it could.
unavailable() {
  echo "No guest: $1." >&2
  echo "It takes a machine on x86-64 with Debian's apt-get, e.g. the container debian:bookworm." >&2
  exit 69
}

# private_apt get|cache DIR ARGS...: apt-get or apt-cache on lists and archives below DIR, with this machine's sources
# or those in DIR/sources.list.
private_apt() {
  local program=apt-$1 dir=$2 sources=()
  shift 2
  mkdir -p "$dir/lists/partial" "$dir/archives/partial"
  [[ -e $dir/sources.list ]] && sources=(
    -o "Dir::Etc::SourceList=$dir/sources.list"
    -o Dir::Etc::SourceParts=/dev/null
  )
  "$program" -qq -o "Dir::State::Lists=$dir/lists" -o "Dir::Cache::archives=$dir/archives" \
    -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o Debug::NoLocking=1 \
    -o APT::Sandbox::User=root -o Acquire::Languages=none "${sources[@]}" "$@"
}

# fetched_once NAME: runs fetch_NAME in a fresh directory and keeps that as .cache/vm/NAME; two that
# run at once do no harm.
fetched_once() {
  local name=$1 work
  shift
  [[ -d $cache/$name ]] && return
  command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
    unavailable "\"apt-get\" and \"dpkg-deb\" are missing here"
  PATH=$PATH:/usr/sbin command -v mke2fs >/dev/null || unavailable "the package e2fsprogs is missing here"
  [[ $(uname -m) == x86_64 ]] || unavailable "its packages are for x86-64, this is $(uname -m)"
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/fetching.XXXXXX")
  # shellcheck disable=SC2064 # the directory of now is meant
  trap "rm -rf '$work'" EXIT
  echo "Fetching Debian packages for the guest, $name (once) ..." >&2
  mkdir "$work/root"
  fetch "$work" "$@" || unavailable "$name was not to be had from apt-get (see above)"
  mv -T "$work/root" "$cache/$name" 2>/dev/null || [[ -d $cache/$name ]]
  rm -rf "$work"
  trap - EXIT
}

# fetch WORK SUITE PACKAGES...: the packages, and with them what they need where the suite is this
# machine's own ("-"), unpacked into WORK/root.
fetch() {
  local work=$1 suite=$2 kernel archive
  shift 2
  if [[ $suite == - ]]; then
    private_apt get "$work" update || return
    private_apt get "$work" -y --no-install-recommends --reinstall --download-only install "$@" || return
  else
    suite_sources "$suite" >"$work/sources.list" || return
    private_apt get "$work" update || return
    kernel=$(newest "$work" "$1") && (cd "$work/archives" && private_apt get "$work" download "$kernel") ||
      return
  fi
  for archive in "$work"/archives/*.deb; do dpkg-deb -x "$archive" "$work/root" || return; done
}

# suite_sources SUITE: a suite of Debian and its security updates, from where this machine has Debian.
suite_sources() {
  local keys=/usr/share/keyrings/debian-archive-keyring.gpg main security
  main=${PROTON_VM_MIRROR:-$(debian_at Debian)}
  security=${PROTON_VM_SECURITY_MIRROR:-$(debian_at Debian-Security)}
  [[ -n $main && -e $keys ]] || {
    echo "There is no source of Debian: set PROTON_VM_MIRROR, and install debian-archive-keyring." >&2
    return 1
  }
  echo "deb [signed-by=$keys] $main $1 main"
  [[ -z $security ]] || echo "deb [signed-by=$keys] $security $1-security main"
}

debian_at() {
  # Both have the origin "Debian"; the label tells them apart.
  apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' |
    sed -n "s/^$1 //p" | head -n 1
}

# newest WORK META: the kernel that a meta package stands for now, by its name.
newest() {
  private_apt cache "$1" depends --important "$2" | sed -nE 's/^ *Depends: (linux-image-.*)/\1/p' |
    tail -n 1
}
