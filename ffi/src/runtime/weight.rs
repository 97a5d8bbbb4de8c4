// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! Whether execve(2) will take a program's arguments and environment: told
//! with both figures before anything is made, where the kernel would say E2BIG.

use crate::kernel::wire::Launch;

/// MAX_ARG_STRLEN: the longest single string, its NUL included.
const ONE: u64 = 32 * 4096;

/// _STK_LIM / 4 * 3: the most for all, however large the stack may grow.
const ALL: u64 = 6 * 1024 * 1024;

/// ARG_MAX: what is there for all in any case.
const LEAST: u64 = 128 * 1024;

/// RLIMIT_STACK.
const STACK: usize = 3;

/// What is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMuch {
    pub what: What,
    pub bytes: u64,
    pub most: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    All,
    /// By its place in argv.
    Argument(usize),
    /// By its place in the environment.
    Variable(usize),
}

/// As fs/exec.c counts: the path and every string with its NUL, and a pointer to each of argv and envp.
pub fn weigh(launch: &Launch) -> Result<(), TooMuch> {
    let strings = weigh_all(&launch.argv, What::Argument)? + weigh_all(&launch.env, What::Variable)?;
    let bytes = strings + launch.path.len() as u64 + 1;
    let stack = launch.rlimits.get(STACK).map_or(u64::MAX, |limit| limit.0);
    let most = (stack / 4).clamp(LEAST, ALL);
    if bytes > most {
        return Err(TooMuch { what: What::All, bytes, most });
    }
    Ok(())
}

fn weigh_all(list: &[Vec<u8>], what: fn(usize) -> What) -> Result<u64, TooMuch> {
    let mut sum = 0;
    for (at, item) in list.iter().enumerate() {
        let bytes = item.len() as u64 + 1;
        if bytes > ONE {
            return Err(TooMuch { what: what(at), bytes, most: ONE });
        }
        sum += bytes + size_of::<usize>() as u64;
    }
    Ok(sum)
}
