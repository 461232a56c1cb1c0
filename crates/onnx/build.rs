//! Generates the types of the ONNX messages from the format's own description.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/onnx-ml.proto");
    let files = protox::compile(["proto/onnx-ml.proto"], ["proto"])?;
    // Byte fields are slices of the file: most of a model is weights.
    prost_build::Config::new().bytes(["."]).compile_fds(files)?;
    Ok(())
}
