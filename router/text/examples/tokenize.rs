//! JSON lines of strings on stdin, JSON lines of token ids and of the text that they stream as on stdout: what
//! `tools/check_tokenizer.py` compares with llama.cpp and with the `tokenizers` package. `--gguf PATH` or `--json PATH` names the tokenizer; `--pre-tokenizers` lists the names that a GGUF may have.
#![forbid(unsafe_code)]

use std::error::Error;
use std::io::{BufRead, BufWriter, Write, stdin, stdout};
use std::path::Path;
use std::sync::Arc;

use forebay_text::{Detokenizer, Tokenizer};
use serde_json::json;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args == ["--pre-tokenizers"] {
        let names: Vec<&str> = Tokenizer::pre_tokenizers().collect();
        writeln!(stdout(), "{}", serde_json::to_string(&names)?)?;
        return Ok(());
    }
    let tokenizer = Arc::new(match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--gguf", path] => Tokenizer::from_gguf(Path::new(path))?,
        ["--json", path] => Tokenizer::from_json(Path::new(path))?,
        _ => return Err("usage: tokenize --gguf PATH | --json PATH | --pre-tokenizers".into()),
    });
    let mut output = BufWriter::new(stdout().lock());
    for line in stdin().lock().lines() {
        let text: String = serde_json::from_str(&line?)?;
        let ids = tokenizer.encode(&text, true)?.ids;
        let mut stream = Detokenizer::new(Arc::clone(&tokenizer), &[], true);
        let mut streamed: String = ids.iter().map(|&id| stream.push(id)).collect();
        streamed += &stream.finish();
        writeln!(output, "{}", json!({"ids": ids, "text": streamed}))?;
    }
    output.flush()?;
    Ok(())
}
