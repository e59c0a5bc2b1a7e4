//! Reads a `tokenizer.json`, or says what the bytes are instead.

use serde_json::Value;

use crate::error::{KernelError, Result};

const POINT_TO_IT: &str = "point uri at the file tokenizer.json of the model";

/// Parses the bytes of a `tokenizer.json`.
pub(super) fn parse(name: &str, bytes: &[u8]) -> Result<tokenizers::Tokenizer> {
    let refuse = |found: String, fix: &str, source| KernelError::NotATokenizer {
        name: name.to_string(),
        found,
        fix: fix.to_string(),
        source,
    };
    if let Some((found, fix)) = foreign(bytes) {
        return Err(refuse(found, fix, None));
    }
    let json = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let value: Value = serde_json::from_slice(json)
        .map_err(|e| refuse(format!("text that is not JSON ({e})"), POINT_TO_IT, Some(Box::new(e))))?;
    if let Some((found, fix)) = other_json(&value) {
        return Err(refuse(found, fix, None));
    }
    tokenizers::Tokenizer::from_bytes(json).map_err(|e| {
        let found = format!("a tokenizer.json that the library does not read ({e})");
        refuse(
            found,
            "save it again with a current version of the Python package tokenizers",
            Some(e),
        )
    })
}

/// Recognises what is not JSON by how it begins.
fn foreign(bytes: &[u8]) -> Option<(String, &'static str)> {
    let head = &bytes[..bytes.len().min(512)];
    let trimmed = head.trim_ascii_start();
    let starts = |prefix: &[u8]| trimmed.len() >= prefix.len() && trimmed[..prefix.len()].eq_ignore_ascii_case(prefix);
    let found = |what: &str, fix| Some((what.to_string(), fix));
    if trimmed.is_empty() {
        return found("an empty file", "fetch it again");
    }
    if starts(b"version https://git-lfs") {
        return found(
            "a Git LFS pointer, not the file itself",
            "run 'git lfs pull' where it comes from",
        );
    }
    if starts(b"<!doctype") || starts(b"<html") || starts(b"<?xml") || starts(b"<head") {
        return found(
            "an HTML or XML page (a page about the file, a login or an error)",
            "use the link of the raw file; on Hugging Face it contains /resolve/, not /blob/",
        );
    }
    for (magic, what) in [
        (&b"\x1f\x8b"[..], "a gzip file"),
        (b"PK\x03\x04", "a zip file (a PyTorch checkpoint is one)"),
        (b"\x28\xb5\x2f\xfd", "a zstd file"),
        (b"GGUF", "a GGUF model"),
        (b"\x80\x02", "a Python pickle"),
        (b"\x80\x04", "a Python pickle"),
        (b"PAR1", "a Parquet file"),
    ] {
        if head.starts_with(magic) {
            return found(what, POINT_TO_IT);
        }
    }
    if head.len() > 9 && head[8] == b'{' && head[4..8] == [0; 4] {
        return found("a safetensors file (weights)", POINT_TO_IT);
    }
    if head[0] == b'\n' && head.windows(5).any(|w| w == b"<unk>") && head.contains(&0x15) {
        return found(
            "a SentencePiece model (.model)",
            "convert it: in Python, AutoTokenizer.from_pretrained(…, use_fast=True).save_pretrained(…)",
        );
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Some(("binary data".to_string(), POINT_TO_IT));
    };
    if starts(b"#version") {
        return found("a merges.txt (the merges of a BPE vocabulary alone)", POINT_TO_IT);
    }
    let first_lines = || text.lines().take(2_000);
    if !starts(b"{") && !starts(b"[{") && first_lines().any(|l| matches!(l.trim(), "[UNK]" | "[CLS]" | "<unk>")) {
        return found("a vocab.txt (a vocabulary without its rules)", POINT_TO_IT);
    }
    None
}

/// Recognises the other JSON files that lie beside a `tokenizer.json`.
fn other_json(value: &Value) -> Option<(String, &'static str)> {
    let found = |what: &str| Some((what.to_string(), POINT_TO_IT));
    let Some(object) = value.as_object() else {
        return found("JSON that is not an object");
    };
    let has = |key: &str| object.contains_key(key);
    if object.get("model").is_some_and(Value::is_object) {
        return None;
    }
    if has("tokenizer_class") || has("added_tokens_decoder") {
        return found("a tokenizer_config.json (settings without the vocabulary)");
    }
    if has("architectures") || has("model_type") || has("hidden_size") {
        return found("a config.json (the configuration of a model)");
    }
    if has("cls_token") || has("unk_token") || has("bos_token") {
        return found("a special_tokens_map.json");
    }
    if has("weight_map") {
        return found("the index of a model's weights");
    }
    if has("image_mean") || has("crop_size") {
        return found("a preprocessor_config.json (settings for images)");
    }
    if object.len() > 16 && object.values().all(Value::is_u64) {
        return found("a vocab.json (a vocabulary without its rules)");
    }
    let keys = object
        .keys()
        .take(5)
        .map(|k| format!("\"{k}\""))
        .collect::<Vec<_>>()
        .join(", ");
    Some((
        format!(
            "JSON without a \"model\" (its keys: {})",
            if keys.is_empty() { "none" } else { &keys }
        ),
        POINT_TO_IT,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_tokenizer_is_named() {
        let vocab: String = format!(
            "{{{}}}",
            (0..20).map(|i| format!("\"t{i}\": {i}")).collect::<Vec<_>>().join(",")
        );
        let cases: &[(&[u8], &str)] = &[
            (b"", "an empty file"),
            (b" \n", "an empty file"),
            (
                b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
                "a Git LFS pointer",
            ),
            (b"<!DOCTYPE html><html>", "an HTML or XML page"),
            (b"\x1f\x8b\x08\0", "a gzip file"),
            (b"PK\x03\x04....", "a zip file"),
            (b"\x08\0\0\0\0\0\0\0{\"a\":{}}", "a safetensors file"),
            (b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02", "a SentencePiece model"),
            (b"\xff\xfe\0\x01", "binary data"),
            (b"#version: 0.2\na b\n", "a merges.txt"),
            (b"[PAD]\n[UNK]\n[CLS]\nthe\n", "a vocab.txt"),
            (b"{\"model_type\": \"bert\", \"hidden_size\": 4}", "a config.json"),
            (
                b"{\"tokenizer_class\": \"BertTokenizer\", \"unk_token\": \"[UNK]\"}",
                "a tokenizer_config.json",
            ),
            (b"{\"unk_token\": \"[UNK]\"}", "a special_tokens_map.json"),
            (b"{\"weight_map\": {}}", "the index of a model's weights"),
            (b"[1, 2]", "JSON that is not an object"),
            (b"{}", "its keys: none"),
            (b"{\"a\": 1}", "its keys: \"a\""),
            (b"{\"model\": ", "text that is not JSON"),
            (b"hello", "text that is not JSON"),
            (b"{\"model\": {\"type\": \"Nope\"}}", "that the library does not read"),
            (vocab.as_bytes(), "a vocab.json"),
        ];
        for (bytes, what) in cases {
            let message = parse("tok", bytes).unwrap_err().to_string();
            assert!(
                message.starts_with("tokenizer 'tok': expected the bytes of a Hugging Face tokenizer.json"),
                "{message}"
            );
            assert!(message.contains(what), "{what}: {message}");
        }
    }
}
