/// What a run will take. It is made without a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forecast {
    /// How many verdicts there will be.
    pub verdicts: usize,
    /// How many of them the cache has.
    pub cached: usize,
    /// How many of the others repeat the prompt of another one, which is asked once.
    pub repeated: usize,
    /// How many requests are left. Attempts that fail come on top, and a few that find out in which form a server takes requests
    /// and gives numbers.
    pub requests: usize,
    /// Their prompts' tokens, estimated: a token for every four letters of plain text, or for one of other scripts.
    pub prompt_tokens: u64,
    /// The most tokens that their answers may have.
    pub completion_tokens: u64,
}

/// What a server charges, in any currency.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prices {
    /// For a million tokens of prompts.
    pub prompt: f64,
    /// For a million tokens of completions.
    pub completion: f64,
}

impl Forecast {
    /// Tokens, of prompts and completions together.
    pub fn tokens(&self) -> u64 {
        self.prompt_tokens + self.completion_tokens
    }

    /// What the run will cost.
    pub fn cost(&self, prices: &Prices) -> f64 {
        (self.prompt_tokens as f64 * prices.prompt + self.completion_tokens as f64 * prices.completion) / 1e6
    }
}
