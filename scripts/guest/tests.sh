# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: proton-stream contributors
#
# Sourced by scripts/vm: which tests the guest runs, and the sum of them.

# What is about cgroups, and what has to hold with them as it does without.
whole=(test/containment_test.ts test/containment test/cgroup*_test.ts test/limits_test.ts test/doctor_test.ts)

# The slice of the ordinary gate: limits by real controllers, and of the matrix what a pure v2 host could do
# otherwise than a hybrid one.
for_root=(test/containment/{cgroups,limits,limits_hosts}_test.ts test/cgroup_setup_test.ts)
for_guest=(test/containment/{cgroups,deaths,trees}_test.ts)
as_root='/^(#36 cgroup2, root|memory: a grandchild|cpu: a quarter|pids: a bomb|v2: |\+ .* root has made)/'
as_guest='/^#((12|19|20|38) cgroup2, unprivileged|36 cgroup2, unprivileged: the runtime)/'

passed=0 failed=0 skipped=0

# run_tests KERNEL USER FILTER FILES...: adds to the sum; a run whose counts cannot be read has failed.
run_tests() {
  local kernel=$1 user=$2 filter=$3 files=() file output line status why
  shift 3
  for file; do [[ ! -e $file ]] || files+=("$file"); done
  if ! why=$(fetched_for "$kernel" 2>&1); then
    echo "SKIPPED: tests with cgroup v2 alone on Linux $kernel as $user: ${why//$'\n'/ }"
    skipped=$((skipped + 1))
    return
  fi
  echo "--- Linux $kernel, cgroup v2 alone, as $user"
  output=$(mktemp)
  set +e
  { set -e && boot "$kernel" "$user" deno test --allow-all --no-check ${filter:+--filter "$filter"} "${files[@]}"; } |
    tee "$output"
  status=${PIPESTATUS[0]}
  set -e
  line=$(grep -E '^(ok|FAILED) \| ' "$output" || true)
  rm -f "$output"
  if [[ $line =~ ([0-9]+)\ passed.*\ \|\ ([0-9]+)\ failed(.*\ ([0-9]+)\ ignored)? ]]; then
    passed=$((passed + BASH_REMATCH[1]))
    failed=$((failed + BASH_REMATCH[2]))
    skipped=$((skipped + ${BASH_REMATCH[4]:-0}))
    # Red without a test that is, or none was run.
    ((BASH_REMATCH[2] > 0)) || ((status == 0 && BASH_REMATCH[1] > 0)) || failed=$((failed + 1))
  else
    failed=$((failed + 1))
  fi
}

# test_all [slice]: the slice, or everything and the slice on the other kernels; the last line is the sum.
# (Linux 5.10 has no cgroup.kill.)
test_all() {
  if [[ ${1:-} == slice ]]; then
    : "${PROTON_VM_SECONDS:=900}" # a guest that hangs holds up nobody for ever
    run_tests 6.1 root "$as_root" "${for_root[@]}"
    run_tests 5.10 guest "$as_guest" "${for_guest[@]}"
  else
    run_tests 6.1 root "" "${whole[@]}"
    run_tests 6.1 guest "" "${whole[@]}"
    for kernel in 5.10 6.12; do
      run_tests "$kernel" root "$as_root" "${for_root[@]}"
      run_tests "$kernel" guest "$as_guest" "${for_guest[@]}"
    done
  fi
  echo
  echo "$passed passed, $failed failed, $skipped skipped"
  ((failed == 0))
}
