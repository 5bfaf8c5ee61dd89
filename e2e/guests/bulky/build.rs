//! Writes functions that are all different: together some 8 MB of machine code.

use std::{env, fmt::Write, fs, path::PathBuf};

const FUNCTIONS: u64 = 1250;
/// Lines of each.
const STEPS: u64 = 90;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let mut text = String::new();
    for function in 0..FUNCTIONS {
        let _ = writeln!(text, "fn work_{function}(mut x: u64) -> u64 {{");
        for step in 0..STEPS {
            let odd = (function * STEPS + step) * 2 + 1;
            let _ = writeln!(text, "x = x.wrapping_mul({odd}) ^ x.rotate_left({}); ", 1 + odd % 61);
            if step % 6 == 0 {
                let _ = writeln!(text, "if x % {} == 0 {{ x ^= {odd} << 7; }}", odd + 2);
            }
        }
        text += "x }\n";
    }
    let names: Vec<_> = (0..FUNCTIONS).map(|function| format!("work_{function}")).collect();
    let _ = writeln!(text, "static WORK: [fn(u64) -> u64; {FUNCTIONS}] = [{}];", names.join(","));
    let folder = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    fs::write(folder.join("work.rs"), text).expect("written");
}
