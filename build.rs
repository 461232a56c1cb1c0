//! Keeps the linker section with the SQL descriptions of the functions: no code refers to it, so a
//! linker may remove it.
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-cdylib=-Wl,--no-gc-sections");
}
