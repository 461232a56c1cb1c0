//! The definition of a style, and the three built-in styles.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The whole definition of a style, as it travels from the extension to the engine in every
/// request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CaptionStyle {
    /// Name as callers write it: `concise`, `seo`, `detailed` or a user-defined one.
    pub name: String,
    /// The instruction for an instruction-following model.
    pub instruction: String,
    /// The nearest of a task model's trained tasks.
    pub task: StyleTask,
    /// Length and form of the text.
    pub rules: StyleRules,
    /// Prompts that replace the instruction for the models of a family, by `model_type`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub prompts: BTreeMap<String, String>,
    /// The language of the text, a BCP 47 tag in canonical form; `None`: as the model writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Combines the caption with words of the row, as `{title}: {caption}`. Not sent to the engine.
    #[serde(skip)]
    pub template: Option<String>,
    /// The text of a picture without a caption, as `{title}`. Not sent to the engine.
    #[serde(skip)]
    pub fallback: Option<String>,
}

impl CaptionStyle {
    /// A style with the defaults of `caption.style`: the base of a row that does not change a
    /// built-in style. It has no instruction, which such a row must set.
    pub fn with_defaults(name: &str) -> CaptionStyle {
        CaptionStyle {
            name: name.into(),
            instruction: String::new(),
            task: StyleTask::Detailed,
            rules: StyleRules {
                min_chars: 3,
                max_chars: 1000,
                max_sentences: None,
                strip_final_stop: false,
            },
            prompts: BTreeMap::new(),
            language: None,
            template: None,
            fallback: None,
        }
    }

    /// The prompt that replaces the instruction or the trained task for a family with these values
    /// of `model_type`, if there is one.
    pub fn prompt_for(&self, model_types: &[&str]) -> Option<&str> {
        self.prompts
            .iter()
            .find(|(name, _)| model_types.contains(&name.as_str()))
            .map(|(_, prompt)| prompt.as_str())
    }
}

/// The trained tasks of task models (Florence-2) and of models with one start token per style.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StyleTask {
    /// One short sentence; the start token `concise`, Florence-2's `<CAPTION>`.
    Concise,
    /// One or two sentences; the start token `seo`, Florence-2's `<DETAILED_CAPTION>`.
    Seo,
    /// A paragraph; the start token `detailed`, Florence-2's `<MORE_DETAILED_CAPTION>`.
    Detailed,
}

impl StyleTask {
    /// The task's name in model folders and in SQL.
    pub fn name(self) -> &'static str {
        match self {
            StyleTask::Concise => "concise",
            StyleTask::Seo => "seo",
            StyleTask::Detailed => "detailed",
        }
    }
}

/// Length and form of a style's text. Lengths are in characters (Unicode scalar values).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StyleRules {
    /// Shorter texts are refused as `uncertain`.
    pub min_chars: u32,
    /// Longer texts are cut at the last sentence, clause or word that fits.
    pub max_chars: u32,
    /// Further sentences are dropped; `None`: no limit.
    pub max_sentences: Option<u32>,
    /// A final full stop is removed (alt texts of one phrase have none).
    pub strip_final_stop: bool,
}

/// Names of the built-in styles, in the order of the documentation.
pub fn builtin_names() -> [&'static str; 3] {
    ["concise", "seo", "detailed"]
}

/// The built-in style of that name.
pub fn builtin(name: &str) -> Option<CaptionStyle> {
    let (instruction, task, rules) = match name {
        "concise" => (
            "Write alt text for this image: one short factual sentence, under 120 characters. \
             Do not start with 'image of'.",
            StyleTask::Concise,
            StyleRules {
                min_chars: 3,
                max_chars: 125,
                max_sentences: Some(1),
                strip_final_stop: true,
            },
        ),
        "seo" => (
            "Write a meta description for this image in one or two sentences, 140 to 155 \
             characters, naming the main objects, colours, materials and setting.",
            StyleTask::Seo,
            StyleRules {
                min_chars: 15,
                max_chars: 160,
                max_sentences: Some(2),
                strip_final_stop: false,
            },
        ),
        "detailed" => (
            "Describe this image in one paragraph: subject, people, objects, colours, text, \
             setting.",
            StyleTask::Detailed,
            StyleRules {
                min_chars: 15,
                max_chars: 1000,
                max_sentences: None,
                strip_final_stop: false,
            },
        ),
        _ => return None,
    };
    Some(CaptionStyle {
        name: name.into(),
        instruction: instruction.into(),
        task,
        rules,
        prompts: BTreeMap::new(),
        language: None,
        template: None,
        fallback: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_serves_all_names_of_its_family() {
        let prompts = BTreeMap::from([("smolvlm".to_string(), "Look.".to_string())]);
        let style = CaptionStyle { prompts, ..builtin("concise").unwrap() };
        assert_eq!(style.prompt_for(&["idefics3", "smolvlm", "smolvlm2"]), Some("Look."));
        assert_eq!(style.prompt_for(&["florence2"]), None);
    }

    #[test]
    fn every_built_in_name_is_defined() {
        for name in builtin_names() {
            assert_eq!(builtin(name).expect("documented style").name, name);
        }
        assert!(builtin("poetic").is_none());
    }
}
