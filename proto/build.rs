//! Compiles `worker.proto` with protox: no protoc on the machine, nothing committed that could go stale.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=worker.proto");
    let descriptors = protox::compile(["worker.proto"], ["."])?;
    tonic_prost_build::configure()
        // Arrays of numbers travel as `bytes`: a received message shares the frame's buffer.
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
