//! A component that serves nothing: it exports a command, not an HTTP handler.

fn main() {
    println!("nobody will read this");
}
