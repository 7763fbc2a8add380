//! JSON lines of strings on stdin, JSON lines of token ids on stdout: what `tools/check_tokenizer.py` compares with
//! llama.cpp. `--gguf PATH` or `--json PATH` names the tokenizer; `--pre-tokenizers` lists the names that a GGUF may have.
#![forbid(unsafe_code)]

use std::error::Error;
use std::io::{BufRead, BufWriter, Write, stdin, stdout};
use std::path::Path;

use forebay_text::Tokenizer;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args == ["--pre-tokenizers"] {
        let names: Vec<&str> = Tokenizer::pre_tokenizers().collect();
        writeln!(stdout(), "{}", serde_json::to_string(&names)?)?;
        return Ok(());
    }
    let tokenizer = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--gguf", path] => Tokenizer::from_gguf(Path::new(path))?,
        ["--json", path] => Tokenizer::from_json(Path::new(path))?,
        _ => return Err("usage: tokenize --gguf PATH | --json PATH | --pre-tokenizers".into()),
    };
    let mut output = BufWriter::new(stdout().lock());
    for line in stdin().lock().lines() {
        let text: String = serde_json::from_str(&line?)?;
        let encoding = tokenizer.encode(&text, true)?;
        serde_json::to_writer(&mut output, &encoding.ids)?;
        writeln!(output)?;
    }
    output.flush()?;
    Ok(())
}
