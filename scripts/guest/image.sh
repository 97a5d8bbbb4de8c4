# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: proton-stream contributors
#
# Sourced by scripts/vm: what the guest boots. Its root is an ext4 image of
# this machine's own programs (the library is built against its libc); the
# checkout and the command come with each start, in the initial memory disk.

# Packages of this machine whose programs the tests use.
programs=(bash bc coreutils dash findutils grep gzip mawk mount procps sed util-linux util-linux-extra)

# root_image DENO: prints the image, which is made at first use and whenever what it is made of changes.
root_image() {
  local deno=$1 key image work
  key=$(
    {
      cat "${BASH_SOURCE[0]}" deno.lock
      stat -c '%n %s %Y' "$deno"
      dpkg-query -W -f '${Package} ${Version}\n' "${programs[@]}" libc6 2>/dev/null || true
    } | sha256sum | cut -c 1-16
  )
  image=$cache/root-$key.ext4
  if [[ ! -e $image ]]; then
    echo "Making the guest's root (once) ..." >&2
    work=$(mktemp -d "$cache/making.XXXXXX")
    # shellcheck disable=SC2064 # the directory of now is meant
    trap "rm -rf '$work'" EXIT
    populate "$work/root" "$deno"
    truncate -s 1G "$work/image"
    PATH=$PATH:/usr/sbin mke2fs -q -t ext4 -O ^has_journal -E root_owner=0:0 -d "$work/root" "$work/image"
    rm -f "$cache"/root-*.ext4
    mv -f "$work/image" "$image"
    rm -rf "$work"
    trap - EXIT
  fi
  printf '%s\n' "$image"
}

# populate ROOT DENO: busybox, and over it the programs above with their libraries.
populate() {
  local root=$1 deno=$2 files file
  mkdir -p "$root"/{dev,etc,home/guest,proc,proton-stream,root,run,sys,tmp,usr/{bin,sbin,lib,lib64}}
  ln -s usr/bin usr/sbin usr/lib usr/lib64 "$root"
  mapfile -t files < <(
    for package in "${programs[@]}"; do
      dpkg-query -L "$package" 2>/dev/null | grep -E '^(/usr)?/s?bin/[^/]+$' || true
    done
    echo /bin/sh
  )
  copied "$root" "${files[@]}"
  cp "$deno" "$root/usr/bin/deno"
  cp "$cache/host/bin/busybox" "$root/usr/bin/busybox"
  copied "$root" $(libraries "$deno" "${files[@]}" npm/native/*.node)
  for file in $("$cache/host/bin/busybox" --list); do
    [[ -e $root/usr/bin/$file || -e $root/usr/sbin/$file ]] || ln -s busybox "$root/usr/bin/$file"
  done
  # The one package that the tests import from npm.
  DENO_DIR=$root/root/.cache/deno "$deno" cache --quiet --no-check test/helpers.ts
  cat >"$root/etc/passwd" <<-'END'
	root:x:0:0:root:/root:/bin/bash
	guest:x:1000:1000:guest:/home/guest:/bin/bash
	nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
	END
  printf 'root:x:0:\nguest:x:1000:\nnogroup:x:65534:\n' >"$root/etc/group"
}

# copied ROOT FILES...: under the same names; what is not there is passed over.
copied() {
  local root=$1 file
  shift
  for file; do
    [[ -e $file ]] || continue
    [[ -e $root$file ]] || cp -L --parents "$file" "$root"
  done
}

# libraries FILES...: what the dynamic loader opens for them, and the loader.
libraries() {
  { ldd "$@" 2>/dev/null || true; } | grep -oE '/[^ ]+\.so[^ ]*' | sort -u
}

# memory_disk KERNEL COMMAND USER: writes the archive that the kernel unpacks, to stdout.
memory_disk() {
  local kernel=$1 command=$2 user=$3 work name file
  work=$(mktemp -d "$run/disk.XXXXXX")
  mkdir -p "$work"/{bin,dev,modules,proc,root,sys,tmp}
  cp "$cache/host/bin/busybox" "$work/bin/busybox"
  ln -s busybox "$work/bin/sh"
  cp scripts/guest/init "$work/init"
  cp scripts/guest/start "$work/start"
  # What is built into this kernel has no file.
  for name in virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk \
    virtio_console fuse overlay; do
    file=$(find "$kernel" -name "$name.ko" -o -name "$name.ko.xz" | head -n 1)
    [[ -n $file ]] || continue
    if [[ $file == *.xz ]]; then xz -dc "$file" >"$work/modules/$name.ko"; else cp "$file" "$work/modules/"; fi
  done
  cp "$command" "$work/command"
  echo "$user" >"$work/user"
  checkout >"$work/checkout.tar"
  (cd "$work" && find . | "$cache/host/bin/busybox" cpio -o -H newc 2>/dev/null)
  rm -rf "$work"
}

# checkout: the sources as they stand here, with the library and the probe, as an archive. Without git everything
# that is not known to be large.
checkout() {
  local built=(npm/native test/fixtures/probe/target/release/probe)
  if git rev-parse --git-dir >/dev/null 2>&1; then
    { git ls-files -z --cached --others --exclude-standard && printf '%s\0' "${built[@]}"; }
  else
    find . -type d \( -name .cache -o -name target -o -name node_modules \) -prune -o -type f -print0
    printf '%s\0' "${built[@]}"
  fi | tar --owner=0 --group=0 --mode=a+rX -cf - --null --ignore-failed-read --files-from=-
}
