//! `CREATE HASH LIST name WITH (signal = 'pdq' [, max_distance = 31, min_quality = 50] [, uri = 'lists/*.json']) [AS SELECT …]`

use corpusmill_kernels::hamming::DISTANCE_MAX;
use corpusmill_kernels::hash_list::Signal;

use super::create::{Prefix, query_text, unknown_option};
use super::cursor::Cursor;
use crate::error::Result;
use crate::statement::{CreateHashList, HashSource};

const OPTIONS: [&str; 4] = ["signal", "max_distance", "min_quality", "uri"];
/// Least quality of a PDQ hash that its authors would match by.
const MIN_QUALITY: u32 = 50;

pub(super) fn parse(cursor: &mut Cursor<'_>, prefix: Prefix) -> Result<CreateHashList> {
    cursor.expect("HASH LIST")?;
    let if_not_exists = cursor.eat("IF NOT EXISTS");
    let name = cursor.name("the hash list's name")?;
    cursor.expect("WITH")?;
    let position = cursor.position();
    let options = cursor.options()?;
    let query = match cursor.eat("AS") {
        true => Some(query_text(cursor)?),
        false => None,
    };
    cursor.finish()?;
    let (mut signal, mut uri, mut max_distance, mut min_quality) = (None, None, None, None);
    for (key, value) in options {
        let number = |most: u32, of: &str| match value.parse() {
            Ok(number) if number <= most => Ok(Some(number)),
            _ => Err(cursor.fault(position, format!("{key} is '{value}', expected {of} from 0 to {most}"))),
        };
        match key.as_str() {
            "signal" => {
                let parsed = value.parse::<Signal>();
                signal = Some(parsed.map_err(|error| cursor.fault(position, error.to_string()))?);
            }
            "max_distance" => max_distance = number(DISTANCE_MAX, "bits")?,
            "min_quality" => min_quality = number(100, "a quality")?,
            "uri" => uri = Some(value),
            _ => return Err(unknown_option(cursor, &key, &OPTIONS, position)),
        }
    }
    let needs = "a hash list needs signal = 'pdq', 'md5', 'sha1', 'sha256' or 'content_hash'";
    let signal = signal.ok_or_else(|| cursor.fault(position, needs))?;
    if signal != Signal::Pdq && (max_distance.is_some() || min_quality.is_some()) {
        let message = format!(
            "hashes of signal {} match exactly: max_distance and min_quality are for pdq",
            signal.name()
        );
        return Err(cursor.fault(position, message));
    }
    let source = match (uri, query) {
        (Some(uri), None) => HashSource::Files(uri),
        (None, Some(query)) => HashSource::Query(query),
        _ => {
            let message =
                "a hash list comes either from files, uri = 'lists/*.json', or from a query, AS SELECT hash FROM …";
            return Err(cursor.fault(position, message));
        }
    };
    let is_pdq = signal == Signal::Pdq;
    Ok(CreateHashList {
        name,
        or_replace: prefix.or_replace,
        if_not_exists,
        signal,
        max_distance: max_distance.unwrap_or(if is_pdq { DISTANCE_MAX } else { 0 }),
        min_quality: min_quality.unwrap_or(if is_pdq { MIN_QUALITY } else { 0 }),
        source,
    })
}
