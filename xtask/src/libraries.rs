//! What a dynamically linked binary needs. In: its path; out: the paths of its libraries and of its loader. IO.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

/// Asks the loader of this machine.
pub(crate) fn libraries(binary: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(binary).output().context("running ldd")?;
    ensure!(output.status.success(), "ldd does not understand {}", binary.display());
    let text = String::from_utf8(output.stdout).context("the output of ldd")?;
    ensure!(!text.contains("not found"), "{} lacks a library:\n{text}", binary.display());
    Ok(parse(&text))
}

/// Lines are `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)`, the loader's has no arrow and the kernel's no path.
fn parse(text: &str) -> Vec<PathBuf> {
    let path = |line: &str| {
        let place = line.split_once("=>").map_or(line, |(_, place)| place).trim();
        let path = place.split_once(" (").map_or(place, |(path, _)| path);
        path.starts_with('/').then(|| PathBuf::from(path))
    };
    let mut paths: Vec<_> = text.lines().filter_map(path).collect();
    paths.sort();
    paths.dedup();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ldd_says() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\
            \tlibgcc_s.so.1 => /lib/x86_64-linux-gnu/libgcc_s.so.1 (0x00007f01)\n\
            \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f00)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f02)\n";
        let want =
            ["/lib/x86_64-linux-gnu/libc.so.6", "/lib/x86_64-linux-gnu/libgcc_s.so.1", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(parse(text), want.map(PathBuf::from));
        assert_eq!(parse("\tstatically linked\n"), Vec::<PathBuf>::new());
    }
}
