//! Which ids end a generation.
//!
//! Files often name only one of a model's ends, and the one they name may be the base model's. So the union is taken of
//! `eos_token_id` in `generation_config.json` and `config.json`, the GGUF's eos, eot and eom, and what ends the chat
//! template's turns: each special token of the list below whose name stands in the template, and the tokenizer's eos
//! token when the template writes `eos_token`. If all of these name nothing, the tokenizer's eos token counts.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::error::TextError;
use crate::gguf::Metadata;
use crate::tokenizer::Tokenizer;

/// Names that end a turn in every template that writes them.
const TURN_ENDS: [&str; 16] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|eot|>",
    "<|eom|>",
    "<|end|>",
    "<end_of_turn>",
    "<turn|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|end_of_turn|>",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
    "<|return|>",
    "</s>",
];
/// Harmony templates end a *message* with `<|end|>`; the turn ends with `<|return|>` or `<|call|>`.
const HARMONY_TURN_END: &str = "<|return|>";
const HARMONY_CALL: &str = "<|call|>";
const HARMONY_MESSAGE_END: &str = "<|end|>";

/// Whether a token of this name ends turns wherever it occurs.
pub(crate) fn is_turn_end(name: &str) -> bool {
    TURN_ENDS.contains(&name)
}

/// Collects the ids.
#[derive(Debug)]
pub(crate) struct EndTokens<'t> {
    tokenizer: &'t Tokenizer,
    ids: BTreeSet<u32>,
}

impl<'t> EndTokens<'t> {
    pub(crate) fn new(tokenizer: &'t Tokenizer) -> Self {
        Self { tokenizer, ids: BTreeSet::new() }
    }

    /// `eos_token_id` of a `generation_config.json` or `config.json`: absent, null, an id or a list of ids.
    pub(crate) fn add_config(&mut self, json: &Value, path: &Path) -> Result<(), TextError> {
        // Multimodal models keep the language model's settings one level down.
        for holder in [json, &json["text_config"]] {
            let ids = &holder["eos_token_id"];
            for id in ids.as_array().map_or(std::slice::from_ref(ids), Vec::as_slice).iter().filter(|id| !id.is_null())
            {
                let valid = id.as_i64().filter(|&id| id == -1 || u32::try_from(id).is_ok());
                let id = valid.ok_or_else(|| TextError::file(path, format!("`eos_token_id` `{id}` is no token id")))?;
                // Some configs write -1 for "none".
                self.ids.extend(u32::try_from(id).ok());
            }
        }
        Ok(())
    }

    pub(crate) fn add_gguf(&mut self, metadata: &Metadata) -> Result<(), TextError> {
        for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
            self.ids.extend(metadata.token_id(&format!("tokenizer.ggml.{key}"))?);
        }
        Ok(())
    }

    pub(crate) fn add_template(&mut self, source: &str) {
        let harmony = source.contains(HARMONY_TURN_END);
        let names = TURN_ENDS.iter().filter(|name| source.contains(**name));
        let names = names.filter(|name| !(harmony && **name == HARMONY_MESSAGE_END)).copied();
        let eos = self.tokenizer.eos_token().filter(|_| source.contains("eos_token"));
        for name in names.chain(eos).chain(harmony.then_some(HARMONY_CALL)) {
            self.ids.extend(self.special(name));
        }
    }

    /// Sorted.
    pub(crate) fn finish(mut self) -> Vec<u32> {
        if self.ids.is_empty() {
            let eos = self.tokenizer.eos_token();
            self.ids.extend(eos.and_then(|name| self.tokenizer.token_to_id(name)));
        }
        self.ids.into_iter().collect()
    }

    fn special(&self, name: &str) -> Option<u32> {
        self.tokenizer.token_to_id(name).filter(|&id| self.tokenizer.is_special(id))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tokenizer() -> Tokenizer {
        let json = include_bytes!("../tests/fixtures/tiny_tokenizer.json");
        Tokenizer::from_json_bytes(json).unwrap().with_bos_eos(None, Some("<|endoftext|>"))
    }

    fn ends(configs: &[Value], templates: &[&str]) -> Vec<String> {
        let tokenizer = tokenizer();
        let mut ends = EndTokens::new(&tokenizer);
        for config in configs {
            ends.add_config(config, Path::new("config.json")).unwrap();
        }
        for template in templates {
            ends.add_template(template);
        }
        ends.finish().into_iter().map(|id| tokenizer.token_text(id)).collect()
    }

    #[test]
    fn configs_name_one_id_or_several_or_none() {
        assert_eq!(ends(&[json!({"eos_token_id": 0}), json!({"eos_token_id": [1, 0]})], &[]), ["!", "\""]);
        assert_eq!(ends(&[json!({"text_config": {"eos_token_id": 2}})], &[]), ["#"]);
        assert_eq!(ends(&[json!({"eos_token_id": null}), json!({"eos_token_id": -1})], &[]), ["<|endoftext|>"]);
    }

    #[test]
    fn the_template_adds_what_ends_its_turns() {
        assert_eq!(ends(&[json!({"eos_token_id": 0})], &["... + '<|im_end|>\\n'"]), ["!", "<|im_end|>"]);
        assert_eq!(ends(&[json!({"eos_token_id": 0})], &["{{ eos_token }}"]), ["!", "<|endoftext|>"]);
        assert_eq!(ends(&[json!({"eos_token_id": 0})], &["<|im_start|> <|eot_id|>"]), ["!"]);
    }

    #[test]
    fn what_is_no_id_names_the_file() {
        let tokenizer = tokenizer();
        let error = EndTokens::new(&tokenizer).add_config(&json!({"eos_token_id": "</s>"}), Path::new("config.json"));
        assert_eq!(error.unwrap_err().to_string(), "`config.json`: `eos_token_id` `\"</s>\"` is no token id");
    }
}
