//! Keeps the section that holds the SQL description of the functions: nothing refers to it, so a
//! linker may drop it.
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-cdylib=-Wl,--no-gc-sections");
}
