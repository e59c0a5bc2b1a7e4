//! `lang_id`: the language of a text.

use std::sync::Arc;

use arrow::array::{Array, Float32Builder, StringArray, StringBuilder, StructArray};
use arrow::datatypes::{DataType, Field, Fields};
use whatlang::{Lang, Script};

/// The code of what is no language, or too little of one (ISO 639-2).
pub const UNDETERMINED: &str = "und";

/// Letters below which an alphabetic text says too little: trigrams of fewer are mostly chance.
const LETTERS_MIN: usize = 12;
/// The same for scripts whose letters are syllables or words, or that one language alone writes.
const DENSE_LETTERS_MIN: usize = 2;
/// From this confidence on, whatlang is right by itself.
const SURE: f64 = 0.6;
/// Below this one it is no better than chance, and whichlang decides.
const UNSURE: f64 = 0.4;
/// Below this one whatlang's two best languages of a script are as good as equal.
const TOSS_UP: f64 = 0.02;
/// Share of English function words, of at least two, that confirms whichlang. Only English has such a short cut: the
/// function words of Swedish or Spanish are those of their neighbours too, which whichlang does not know.
const FUNCTION_WORDS_MIN: f32 = 0.15;

/// Names the language that each text is written in.
///
/// Returns `Struct{lang: Utf8, score: Float32}`; `NULL` stays `NULL`. `lang` is the ISO 639-1 code (`en`, `zh`; every
/// language of the detector has one), and `und` for a text with too little to go by: fewer than 12 letters (2 in
/// Chinese, Japanese, Korean, Thai and other scripts that say it themselves), nothing but emoji, links or mentions, or
/// no clear winner. `score` ranks how sure the answer is, from 0 to 1; it is no probability, and 0 for `und`.
///
/// Links, mentions, hashtags, HTML references and the `RT` of retweets are left out first: they are no language. Two
/// detectors then decide together, because each is weak where the other is strong: `whatlang` (script and trigrams,
/// Cavnar & Trenkle 1994) knows 70 languages and what it does not know, but guesses on short posts; `whichlang` (a
/// linear model on hashed n-grams, trained on single sentences) is right on those, but knows 16 languages and takes
/// every text for one of them. In Latin script:
/// 1. English if whichlang says so and English function words are 15 % of the words or more;
/// 2. else whatlang's if it is sure (confidence ≥ 0.6) or whichlang says the same;
/// 3. else whichlang's if whatlang has no idea (confidence < 0.4), else `und`.
///
/// In other scripts whatlang decides alone, and it is `und` where its two best are as good as equal. Short posts in a
/// Latin-script language that whichlang does not know can come out as a neighbour of theirs (Catalan as Spanish, Danish
/// as Swedish), with a low score.
#[must_use]
pub fn lang_id(texts: &StringArray) -> StructArray {
    let mut langs = StringBuilder::with_capacity(texts.len(), texts.len() * 3);
    let mut scores = Float32Builder::with_capacity(texts.len());
    let mut letters = String::new();
    for text in texts {
        let (lang, score) = text.map_or((UNDETERMINED, 0.0), |t| identify(t, &mut letters));
        langs.append_value(lang);
        scores.append_value(score);
    }
    StructArray::new(
        lang_fields(),
        vec![Arc::new(langs.finish()), Arc::new(scores.finish())],
        texts.nulls().cloned(),
    )
}

/// Fields of the struct that [`lang_id`] returns.
#[must_use]
pub fn lang_fields() -> Fields {
    Fields::from(vec![
        Field::new("lang", DataType::Utf8, false),
        Field::new("score", DataType::Float32, false),
    ])
}

fn identify(text: &str, kept: &mut String) -> (&'static str, f32) {
    kept.clear();
    for word in text.split_whitespace().filter(|w| is_language(w)) {
        kept.push_str(word);
        kept.push(' ');
    }
    let Some(script) = whatlang::detect_script(kept) else {
        return (UNDETERMINED, 0.0);
    };
    let letters = kept.chars().filter(|c| c.is_alphabetic()).count();
    let needed = match script {
        Script::Latin | Script::Cyrillic | Script::Arabic | Script::Devanagari | Script::Hebrew => LETTERS_MIN,
        _ => DENSE_LETTERS_MIN,
    };
    if letters < needed {
        return (UNDETERMINED, 0.0);
    }
    let detect = || whatlang::detect(kept).map_or((Lang::Eng, 0.0), |i| (i.lang(), i.confidence()));
    if script != Script::Latin {
        return match detect() {
            (lang, confidence) if confidence >= TOSS_UP => (code(lang), confidence as f32),
            _ => (UNDETERMINED, 0.0),
        };
    }
    let short = whichlang::detect_language(kept);
    if short == whichlang::Lang::Eng {
        let confirmed = english_share(kept);
        if confirmed >= FUNCTION_WORDS_MIN {
            return ("en", (0.5 + confirmed).min(1.0));
        }
    }
    let (lang, confidence) = detect();
    if code(lang) == latin_code(short) {
        return (code(lang), (0.5 + confidence / 2.0) as f32);
    }
    match confidence {
        c if c >= SURE => (code(lang), c as f32),
        c if c < UNSURE && latin_code(short) != UNDETERMINED => (latin_code(short), 0.5 - c as f32),
        _ => (UNDETERMINED, 0.0),
    }
}

/// Share of the words that are function words of English; 0 when there are fewer than two of them.
fn english_share(text: &str) -> f32 {
    const WORDS: [&str; 44] = [
        "the", "a", "an", "i", "you", "he", "she", "it", "we", "they", "me", "my", "your", "his", "her", "and", "but",
        "or", "if", "so", "to", "of", "in", "on", "at", "for", "with", "is", "are", "was", "be", "have", "do", "don't",
        "that", "this", "what", "when", "who", "not", "no", "all", "just", "i'm",
    ];
    let (mut words, mut found) = (0usize, 0usize);
    for word in text
        .split([' ', '.', ',', '!', '?', ':', ';', '"'])
        .filter(|w| !w.is_empty())
    {
        words += 1;
        found += usize::from(WORDS.iter().any(|f| f.eq_ignore_ascii_case(word)));
    }
    if found < 2 { 0.0 } else { found as f32 / words as f32 }
}

/// The ISO 639-1 code of a language of whichlang that is written in Latin script, `und` for the others.
fn latin_code(lang: whichlang::Lang) -> &'static str {
    use whichlang::Lang as L;
    match lang {
        L::Deu => "de",
        L::Eng => "en",
        L::Fra => "fr",
        L::Ita => "it",
        L::Nld => "nl",
        L::Por => "pt",
        L::Spa => "es",
        L::Swe => "sv",
        L::Tur => "tr",
        L::Vie => "vi",
        L::Ara | L::Cmn | L::Hin | L::Jpn | L::Kor | L::Rus => UNDETERMINED,
    }
}

/// Leaves out the parts of a post that are in no language.
fn is_language(word: &str) -> bool {
    let bare = word.trim_start_matches(|c: char| !c.is_alphanumeric() && !matches!(c, '@' | '#' | '&'));
    !(bare.starts_with(['@', '#', '&'])
        || bare == "RT"
        || bare.contains("://")
        || bare.starts_with("www.")
        || bare.contains("t.co/"))
}

/// The ISO 639-1 code; every language of whatlang has one.
#[rustfmt::skip]
fn code(lang: Lang) -> &'static str {
    match lang {
        Lang::Epo => "eo", Lang::Eng => "en", Lang::Rus => "ru", Lang::Cmn => "zh", Lang::Spa => "es",
        Lang::Por => "pt", Lang::Ita => "it", Lang::Ben => "bn", Lang::Fra => "fr", Lang::Deu => "de",
        Lang::Ukr => "uk", Lang::Kat => "ka", Lang::Ara => "ar", Lang::Hin => "hi", Lang::Jpn => "ja",
        Lang::Heb => "he", Lang::Yid => "yi", Lang::Pol => "pl", Lang::Amh => "am", Lang::Jav => "jv",
        Lang::Kor => "ko", Lang::Nob => "nb", Lang::Dan => "da", Lang::Swe => "sv", Lang::Fin => "fi",
        Lang::Tur => "tr", Lang::Nld => "nl", Lang::Hun => "hu", Lang::Ces => "cs", Lang::Ell => "el",
        Lang::Bul => "bg", Lang::Bel => "be", Lang::Mar => "mr", Lang::Kan => "kn", Lang::Ron => "ro",
        Lang::Slv => "sl", Lang::Hrv => "hr", Lang::Srp => "sr", Lang::Mkd => "mk", Lang::Lit => "lt",
        Lang::Lav => "lv", Lang::Est => "et", Lang::Tam => "ta", Lang::Vie => "vi", Lang::Urd => "ur",
        Lang::Tha => "th", Lang::Guj => "gu", Lang::Uzb => "uz", Lang::Pan => "pa", Lang::Aze => "az",
        Lang::Ind => "id", Lang::Tel => "te", Lang::Pes => "fa", Lang::Mal => "ml", Lang::Ori => "or",
        Lang::Mya => "my", Lang::Nep => "ne", Lang::Sin => "si", Lang::Khm => "km", Lang::Tuk => "tk",
        Lang::Aka => "ak", Lang::Zul => "zu", Lang::Sna => "sn", Lang::Afr => "af", Lang::Lat => "la",
        Lang::Slk => "sk", Lang::Cat => "ca", Lang::Tgl => "tl", Lang::Hye => "hy", Lang::Cym => "cy",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::AsArray;
    use arrow::datatypes::Float32Type;

    fn lang(text: &str) -> String {
        lang_id(&StringArray::from(vec![text]))
            .column(0)
            .as_string::<i32>()
            .value(0)
            .to_string()
    }

    #[test]
    fn posts_in_many_languages() {
        for (code, text) in [
            (
                "en",
                "I really can't believe that they would say something like that in public, shame on them",
            ),
            (
                "de",
                "Ich kann wirklich nicht glauben, dass sie so etwas öffentlich sagen würden",
            ),
            (
                "fr",
                "Je n'arrive vraiment pas à croire qu'ils puissent dire une chose pareille en public",
            ),
            (
                "es",
                "No puedo creer que hayan dicho algo así en público, qué vergüenza les debería dar",
            ),
            (
                "pt",
                "Não acredito que eles disseram uma coisa dessas em público, que vergonha",
            ),
            ("ru", "Не могу поверить, что они сказали такое публично, позор"),
            ("ar", "لا أستطيع أن أصدق أنهم قالوا شيئا كهذا علنا"),
            ("hi", "मुझे विश्वास नहीं हो रहा कि उन्होंने सबके सामने ऐसा कहा"),
            ("zh", "我真不敢相信他们会公开说这样的话"),
            ("ja", "彼らが公の場でそんなことを言うなんて信じられない"),
            ("ko", "그들이 공개적으로 그런 말을 했다니 믿을 수 없어"),
            ("th", "ไม่อยากเชื่อเลยว่าพวกเขาจะพูดแบบนั้น"),
            ("en", "lmao u wildin bro aint nobody got time 4 dat"),
            (
                "da",
                "Jeg kan virkelig ikke tro, at de ville sige sådan noget offentligt, det er en skam",
            ),
            (
                "ca",
                "No puc creure que hagin dit una cosa així en públic, quina vergonya els hauria de fer",
            ),
            ("uk", "Я не можу повірити, що вони таке сказали"),
            ("id", "Saya tidak percaya mereka berkata begitu di depan umum"),
            ("pl", "Nie mogę uwierzyć, że tak powiedzieli"),
            ("tl", "Hindi ako makapaniwala na sinabi nila iyon"),
            ("vi", "Tôi không thể tin được là họ lại nói như vậy trước công chúng"),
        ] {
            assert_eq!(lang(text), code, "{text}");
        }
    }

    #[test]
    fn what_is_no_language_is_undetermined() {
        for text in [
            "",
            " ",
            "😂😂😂",
            "lol ok",
            "@user1 @user2 #tbt",
            "https://example.com/lorem-ipsum-dolor",
            "1234567890 12:30",
            "&#128514; &amp;",
            "ювааaéaaааао",
        ] {
            assert_eq!(lang(text), UNDETERMINED, "{text}");
        }
    }

    #[test]
    fn links_and_mentions_do_not_count() {
        let bare = "das ist doch wirklich nicht zu glauben";
        let dressed = format!("RT @english_account: {bare} https://example.com/this-is-the-english-title #throwback");
        assert_eq!(lang(&dressed), "de");
    }

    #[test]
    fn null_stays_null_and_scores_are_shares() {
        let got = lang_id(&StringArray::from(vec![
            None,
            Some("this is a perfectly ordinary sentence in English"),
            Some("😂"),
        ]));
        assert!(got.is_null(0) && got.is_valid(1));
        let scores = got.column(1).as_primitive::<Float32Type>();
        assert!(scores.value(1) > 0.1 && scores.value(1) <= 1.0);
        assert_eq!(scores.value(2), 0.0);
    }

    #[test]
    fn every_language_has_a_two_letter_code_of_its_own() {
        let codes: std::collections::HashSet<_> = Lang::all().iter().map(|l| code(*l)).collect();
        assert_eq!(codes.len(), Lang::all().len());
        assert!(codes.iter().all(|c| c.len() == 2));
    }

    proptest::proptest! {
        #[test]
        fn any_text_has_a_code_and_a_score(s in "(\\PC|[a-zé]{1,8}|[а-я]{1,8}|@|#| ){0,20}") {
            let got = lang_id(&StringArray::from(vec![s]));
            let (lang, score) = (got.column(0).as_string::<i32>().value(0), got.column(1).as_primitive::<Float32Type>().value(0));
            proptest::prop_assert!((lang == UNDETERMINED) == (score == 0.0) && (0.0..=1.0).contains(&score), "{} {}", lang, score);
        }
    }
}
