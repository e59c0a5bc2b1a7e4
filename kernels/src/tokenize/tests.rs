//! Ids against those of the Python package `tokenizers` (tests/data/make_golden.py).

use arrow::array::{Array, AsArray, Int64Array, ListArray, StringArray};
use arrow::datatypes::{DataType, Field, Int32Type};
use serde_json::Value;

use super::*;

fn file(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn load(name: &str, max_length: Option<usize>) -> Tokenizer {
    Tokenizer::from_bytes(name, &file(&format!("{name}.tokenizer.json")), max_length).unwrap()
}

struct Golden {
    texts: StringArray,
    by_tokenizer: Vec<(String, Vec<Vec<i32>>, Vec<String>)>,
}

fn golden() -> Golden {
    let json: Value = serde_json::from_slice(&file("golden.json")).unwrap();
    let texts = json["texts"].as_array().unwrap().iter().map(|t| t.as_str()).collect();
    let by_tokenizer = json["tokenizers"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, of)| {
            let ids = serde_json::from_value(of["ids"].clone()).unwrap();
            (
                name.clone(),
                ids,
                serde_json::from_value(of["decoded"].clone()).unwrap(),
            )
        })
        .collect();
    Golden { texts, by_tokenizer }
}

fn rows(lists: &ListArray) -> Vec<Option<Vec<i32>>> {
    lists
        .iter()
        .map(|row| row.map(|r| r.as_primitive::<Int32Type>().values().to_vec()))
        .collect()
}

#[test]
fn ids_counts_and_texts_are_those_of_the_python_package() {
    let golden = golden();
    assert_eq!(golden.by_tokenizer.len(), 4);
    for (name, ids, decoded) in &golden.by_tokenizer {
        let tokenizer = load(name, None);
        let encoded = tokenizer.encode(&golden.texts).unwrap();
        assert_eq!(encoded.data_type(), &Tokenizer::encoded_type());
        for (row, (got, want)) in rows(&encoded).into_iter().zip(ids).enumerate() {
            assert_eq!(got.as_ref(), Some(want), "{name}: {:?}", golden.texts.value(row));
        }
        let counts = tokenizer.count(&golden.texts).unwrap();
        assert!(
            counts
                .values()
                .iter()
                .zip(ids)
                .all(|(count, ids)| *count as usize == ids.len()),
            "{name}"
        );
        assert_eq!(
            tokenizer.decode(&encoded).unwrap(),
            StringArray::from(decoded.clone()),
            "{name}"
        );
    }
}

#[test]
fn max_length_cuts_what_the_file_does_not_and_wins_over_the_file() {
    let text = StringArray::from(vec![
        "report remove ignore quote answer like share flag delete translate report remove ignore",
    ]);
    let whole = rows(&load("bert", None).encode(&text).unwrap())[0].clone().unwrap();
    let cut = rows(&load("bert", Some(8)).encode(&text).unwrap())[0].clone().unwrap();
    assert_eq!(cut, [&whole[..7], &[3]].concat(), "seven ids and [SEP]");
    assert_eq!(load("bert_cased_cut", None).max_length(), Some(12));
    let of_file = rows(&load("bert_cased_cut", None).encode(&text).unwrap())[0]
        .clone()
        .unwrap();
    let longer = rows(&load("bert_cased_cut", Some(40)).encode(&text).unwrap())[0]
        .clone()
        .unwrap();
    assert_eq!((of_file.len(), longer.len() > 12), (12, true));
}

#[test]
fn a_limit_without_room_is_refused() {
    let error = Tokenizer::from_bytes("bert", &file("bert.tokenizer.json"), Some(2))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("max_length = '2'")
            && error.contains("adds 2 special tokens")
            && error.contains("use at least 3"),
        "{error}"
    );
    let tight = String::from_utf8(file("bert_cased_cut.tokenizer.json"))
        .unwrap()
        .replace("\"max_length\":12", "\"max_length\":1");
    let error = Tokenizer::from_bytes("t", tight.as_bytes(), None)
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("truncation.max_length of the tokenizer.json = '1'"),
        "{error}"
    );
}

#[test]
fn null_stays_null_and_slices_are_respected() {
    let texts = StringArray::from(vec![Some("skipped"), None, Some(""), Some("flag")]).slice(1, 3);
    let bert = load("bert", None);
    let encoded = bert.encode(&texts).unwrap();
    assert_eq!(rows(&encoded)[..2], [None, Some(vec![2, 3])]);
    assert_eq!(
        bert.count(&texts).unwrap().iter().collect::<Vec<_>>()[..2],
        [None, Some(2)]
    );
    let decoded = bert.decode(&encoded).unwrap();
    assert_eq!(decoded.iter().collect::<Vec<_>>(), [None, Some(""), Some("flag")]);
    assert_eq!(bert.decode(&encoded.slice(2, 1)).unwrap().value(0), "flag");
}

#[test]
fn lists_of_other_integers_decode_and_bad_ids_are_named() {
    let bert = load("bert", None);
    let list = |ids: Vec<Option<i64>>| {
        let field = Arc::new(Field::new_list_field(DataType::Int64, true));
        let offsets = OffsetBuffer::from_lengths([0, ids.len()]);
        ListArray::new(field, offsets, Arc::new(Int64Array::from(ids)), None)
    };
    let flag = rows(&bert.encode(&StringArray::from(vec!["flag"])).unwrap())[0]
        .clone()
        .unwrap();
    let ids = flag
        .iter()
        .map(|id| Some(i64::from(*id)))
        .chain([Some(1_000_000)])
        .collect();
    assert_eq!(
        bert.decode(&list(ids)).unwrap().value(1),
        "flag",
        "an id out of the vocabulary is left out"
    );
    for (id, written) in [(Some(-1), "-1"), (None, "NULL"), (Some(1 << 40), "1099511627776")] {
        let error = bert.decode(&list(vec![id])).unwrap_err().to_string();
        assert!(
            error.contains(&format!("row 1 of the batch holds the token id {written}")),
            "{error}"
        );
    }
    let floats = ListArray::from_iter_primitive::<arrow::datatypes::Float32Type, _, _>([Some(vec![Some(1.0)])]);
    assert!(
        bert.decode(&floats)
            .unwrap_err()
            .to_string()
            .contains("give a list of integers")
    );
}

#[test]
fn the_digest_is_of_the_bytes_and_names_are_kept() {
    let bytes = file("bert.tokenizer.json");
    let tokenizer = Tokenizer::from_bytes("mine", &bytes, Some(64)).unwrap();
    assert_eq!(tokenizer.digest(), format!("{:032x}", xxh3_128(&bytes)));
    assert_eq!(
        (tokenizer.name(), tokenizer.max_length(), tokenizer.vocab_size()),
        ("mine", Some(64), 386)
    );
}
