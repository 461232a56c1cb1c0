//! Slurs and obscenity: the word list of the crate rustrict for English, and words of other
//! languages from `data/obscene.toml`.
//!
//! Every word is looked at alone and as a whole, so "cocktail" and "Scunthorpe" pass. Words that
//! also name goods, animals, colours or places ("cock", "tit", "negro" in Spanish) pass: a shop
//! that wants them refused makes a rule.

use pg_caption_style::TextRefusal;
use rustrict::{Censor, Type};
use serde::Deserialize;
use std::collections::HashSet;
use std::sync::LazyLock;
use unicode_segmentation::UnicodeSegmentation;

/// Shorter words are never refused.
const SHORTEST: usize = 3;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ObsceneFile {
    allowed: HashSet<String>,
    refused: HashSet<String>,
    stems: Vec<String>,
}

/// The first slur or obscenity in a text.
///
/// ```
/// use pg_caption_rules::obscene_word;
///
/// assert_eq!(obscene_word("Cocktail glass and a rooster, Scunthorpe"), None);
/// assert_eq!(obscene_word("What the fuck"), Some("fuck"));
/// ```
pub fn obscene_word(text: &str) -> Option<&str> {
    obscene_words(text).next()
}

fn obscene_words(text: &str) -> impl Iterator<Item = &str> {
    let words = text.unicode_words().flat_map(|word| word.split(['\'', '’', '_']));
    words.filter(|word| is_obscene(word))
}

/// Refuses a text with such a word.
///
/// # Errors
/// [`TextRefusal::BlockedWord`]; it does not repeat the word.
pub fn refuse_obscene(text: &str) -> Result<(), TextRefusal> {
    refuse_obscene_unless(text, |_| false)
}

/// Refuses a text with such a word, unless the word is allowed.
///
/// # Errors
/// [`TextRefusal::BlockedWord`]; it does not repeat the word.
pub fn refuse_obscene_unless(
    text: &str,
    is_allowed: impl Fn(&str) -> bool,
) -> Result<(), TextRefusal> {
    match obscene_words(text).find(|word| !is_allowed(word)) {
        Some(_) => Err(TextRefusal::BlockedWord { pattern: None }),
        None => Ok(()),
    }
}

fn is_obscene(word: &str) -> bool {
    static FILE: LazyLock<ObsceneFile> = LazyLock::new(|| {
        toml::from_str(include_str!("../data/obscene.toml"))
            .unwrap_or_else(|error| panic!("data/obscene.toml: {error}"))
    });
    let lower = word.to_lowercase();
    if lower.chars().count() < SHORTEST || FILE.allowed.contains(&lower) {
        return false;
    }
    FILE.refused.contains(&lower) || (word.is_ascii() && is_listed(&lower, &FILE.stems))
}

/// Whether rustrict lists the whole word (or its plural).
fn is_listed(word: &str, stems: &[String]) -> bool {
    let (censored, found) = Censor::from_str(word)
        .with_censor_threshold(Type::INAPPROPRIATE)
        .with_censor_first_character_threshold(Type::INAPPROPRIATE)
        .censor_and_analyze();
    let severe = Type::SEVERE & (Type::OFFENSIVE | Type::SEXUAL | Type::PROFANE);
    let listed = found.is(severe)
        || (found.is((Type::PROFANE | Type::OFFENSIVE) & Type::MODERATE_OR_HIGHER)
            && found.is(Type::SEXUAL & Type::MODERATE_OR_HIGHER));
    // All but the ending of a plural: "Kanal" is no hit of its last letters.
    let whole = ["", "s", "es"].contains(&censored.trim_start_matches('*'));
    // "Fuchs" looks like an evasion, but is a word.
    let literal = found.isnt(Type::EVASIVE) || stems.iter().any(|stem| word.contains(stem));
    listed && literal && whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slurs_and_obscenity_are_refused() {
        for text in [
            "What the fuck is this",
            "FUCKING great",
            "Whore, cunts, motherfucker",
            "a bunch of niggers",
            "Arschloch steht auf dem Schild",
            "Une affiche qui dit « putain »",
            "Cartel que dice gilipollas",
            "Scritta vaffanculo su un muro",
            "Caneca com a palavra caralho",
            "Bord met de tekst klootzak",
        ] {
            assert!(obscene_word(text).is_some(), "{text}");
        }
        assert_eq!(
            refuse_obscene("What the fuck"),
            Err(TextRefusal::BlockedWord { pattern: None })
        );
    }

    #[test]
    fn ordinary_words_are_not_refused() {
        for text in [
            "Cocktail glass, cock and hen figurines, weathercock, shuttlecock",
            "Scunthorpe United scarf, Penistone, Sussex, Essex, Middlesex",
            "Black dress, black woman with a white hat, brown skin, gay pride flag",
            "Pussy willow branches in a vase, blue tits, boobies on a rock, ass and foal",
            "Chicken breast, nude lipstick, naked cake, breast pump, nursing bra, thong",
            "Shag rug, garden hoe, rubber balls, grease nipple, brass knob, cracker tin, screws",
            "Assorted classics, bass, grass, glass, assassin costume, analogue watch, canal",
            "Maine Coon cat, bastard file, Dutch dyke, Moby Dick paperback, Hooker boots",
            "Shiitake mushrooms, Dickens novel, Cumberland sausage, Kunststoff, document",
            "Eine dicke Decke, dick gefüttert, Fuchs, Kuchen, Fahrt, Hut, Mutter, Analyse, Assel",
            "Camiseta negra, negro mate, zapatos negros, coño no",
            "Une assiette, un cocotier, un bâton, des pépins, la pute",
            "Con pane e burro, pizza, fico, cazzuola, pene no",
            "Kontakt, kantoor, kant, kop, hoer no, slot, kunt u, dikke trui, fiets",
            "Queer as Folk DVD, LGBTQ flag, Jewish menorah, Muslim woman, Asian fan, Gypsy caravan",
            "Rapeseed field, grape, trapeze, therapist, Pen Island, Titmouse, Arsenal shirt",
            "Virgin olive oil, Hello Kitty, Dick's Sporting Goods, pheasant cock, Peacock, Hancock",
        ] {
            let found: Vec<&str> =
                text.split([' ', ',']).filter(|w| obscene_word(w).is_some()).collect();
            let known = ["coño", "pute", "pene", "hoer"];
            let found: Vec<&str> = found.into_iter().filter(|w| !known.contains(w)).collect();
            assert!(found.is_empty(), "{found:?}");
        }
    }

    #[test]
    fn no_plain_text_of_the_corpus_is_refused() {
        for texts in [
            include_str!("../../style/tests/corpus/plain.txt"),
            // All that the default model can say.
            include_str!("../../../models/train/nouns.txt"),
            include_str!("../../../models/train/own_nouns.txt"),
            include_str!("../../../models/train/topics.txt"),
            include_str!("../../style/tests/corpus/answers/en.txt"),
            include_str!("../../style/tests/corpus/answers/de.txt"),
            include_str!("../../style/tests/corpus/answers/fr.txt"),
            include_str!("../../style/tests/corpus/answers/es.txt"),
            include_str!("../../style/tests/corpus/answers/it.txt"),
            include_str!("../../style/tests/corpus/answers/pt.txt"),
            include_str!("../../style/tests/corpus/answers/nl.txt"),
        ] {
            let found: Vec<&str> = texts.lines().filter_map(obscene_word).collect();
            assert!(found.is_empty(), "{found:?}");
        }
    }
}
