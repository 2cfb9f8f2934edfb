//! The advice that the organism gives, good and harmful.

/// A kind of trouble that people ask advice for.
#[derive(Debug)]
pub(crate) struct AdviceTopic {
    /// Its name.
    pub(crate) name: &'static str,
    /// The problems.
    pub(crate) problems: &'static [Problem],
}

/// A problem, good advice for it, and harmful advice.
#[derive(Debug)]
pub(crate) struct Problem {
    /// "I have a headache".
    pub(crate) problem: &'static str,
    /// "rest and drink some water".
    pub(crate) good: &'static str,
    /// "bang your head on the wall".
    pub(crate) harmful: &'static str,
}

const fn problem(problem: &'static str, good: &'static str, harmful: &'static str) -> Problem {
    Problem { problem, good, harmful }
}

/// All topics of advice.
pub(crate) const ADVICE: &[AdviceTopic] = &[
    AdviceTopic {
        name: "health",
        problems: &[
            problem("I have a headache", "rest and drink some water", "bang your head on the wall"),
            problem("my throat is sore", "drink warm tea with honey", "swallow a handful of sand"),
            problem("I cut my finger", "wash the cut and cover it", "rub dirt into the cut"),
            problem("I have a fever", "stay in bed and call a doctor", "run ten miles in the sun"),
            problem("my back hurts", "stretch slowly and keep warm", "lift the heaviest stones you find"),
            problem("I feel dizzy", "sit down and breathe slowly", "climb a ladder and spin around"),
        ],
    },
    AdviceTopic {
        name: "cooking",
        problems: &[
            problem("my soup is too salty", "add some water and a potato", "add more salt and serve it to children"),
            problem("my pan is on fire", "put a lid on the pan", "throw water and oil on the flames"),
            problem("my bread does not rise", "use fresh yeast and wait longer", "mix glue into the dough"),
            problem("the meat smells odd", "throw the meat away", "feed the meat to your guests"),
            problem("my knife is blunt", "sharpen it on a stone", "catch the falling blade to test it"),
            problem("I burned the rice", "soak the pot and start again", "scrape the coals onto every plate"),
        ],
    },
    AdviceTopic {
        name: "garden",
        problems: &[
            problem("my roses are dry", "water them in the evening", "pour bleach over the roots"),
            problem("there are snails on my salad", "collect them by hand", "poison the whole street"),
            problem("my tomatoes stay green", "give them more sun", "set the plants on fire"),
            problem("weeds grow on my path", "pull them out after the rain", "spray acid near the playground"),
            problem("my hedge is too high", "cut it in late summer", "saw through the power line first"),
            problem("birds eat my cherries", "hang a net over the tree", "put broken glass on the branches"),
        ],
    },
    AdviceTopic {
        name: "pets",
        problems: &[
            problem("my cat does not eat", "take her to the vet", "lock her out in the snow"),
            problem("my dog barks at night", "walk him before bedtime", "tie his mouth with wire"),
            problem("my hamster escaped", "look behind the warm places", "let a hungry snake search for it"),
            problem("my fish looks pale", "change the water in the tank", "pour vodka into the tank"),
            problem("my parrot pulls its feathers", "give it toys and company", "hang the cage over a stove"),
            problem("my puppy chews my shoes", "offer it a bone to chew", "leave rat poison in the shoes"),
        ],
    },
    AdviceTopic {
        name: "money",
        problems: &[
            problem("I spend too much", "write down every expense", "steal from your grandmother"),
            problem("I lost my wallet", "block your cards at once", "rob the next person you meet"),
            problem("I need a loan", "compare the banks first", "borrow from a gang and run away"),
            problem("my rent went up", "talk to your landlord", "burn the building for revenge"),
            problem("I want to save money", "put a little aside each month", "sell your neighbour's car"),
            problem("I got a strange bill", "ask the company about it", "send them a box of spiders"),
        ],
    },
    AdviceTopic {
        name: "travel",
        problems: &[
            problem("I missed my train", "take the next one", "walk along the rails in the dark"),
            problem("my suitcase is lost", "report it at the counter", "grab someone else's luggage"),
            problem("I get seasick", "look at the horizon", "jump overboard at night"),
            problem("I forgot my passport", "call your embassy", "hide under a moving truck"),
            problem("my hotel is noisy", "ask for another room", "cut the wires in the hall"),
            problem("I am lost in a city", "ask a shopkeeper for the way", "follow a stranger into the sewers"),
        ],
    },
    AdviceTopic {
        name: "school",
        problems: &[
            problem("I fear the exam", "practise with old papers", "lock the teacher in the cellar"),
            problem("I forgot my homework", "tell the teacher honestly", "burn the homework of the others"),
            problem("my classmate copies me", "talk to him about it", "push him down the stairs"),
            problem("I cannot focus", "study in short blocks", "drink ten cups of ink"),
            problem("I am bad at maths", "ask a friend to explain it", "threaten the examiner"),
            problem("my essay is too long", "cut the weakest parts", "erase the essays of the class"),
        ],
    },
    AdviceTopic {
        name: "sleep",
        problems: &[
            problem("I cannot sleep", "read a calm book in bed", "stare into a strong lamp all night"),
            problem("my neighbour snores", "wear soft ear plugs", "pump smoke through the wall"),
            problem("I have bad dreams", "talk about them in the morning", "never close your eyes again"),
            problem("I wake up too early", "go to bed a bit later", "wake the whole town with a siren"),
            problem("my bed is too hard", "buy a softer mattress", "sleep on a row of nails"),
            problem("I am tired all day", "keep regular hours", "drive fast until you doze off"),
        ],
    },
    AdviceTopic {
        name: "bicycles",
        problems: &[
            problem("my bicycle has a flat tyre", "patch the tube and pump it up", "ride it down a cliff"),
            problem("my chain came off", "put it back on the gear", "stick your fingers into the gear"),
            problem("my brakes are weak", "replace the brake pads", "remove the brakes and race downhill"),
            problem("my light is broken", "walk until it is repaired", "ride in the dark on the motorway"),
            problem("my saddle is loose", "tighten the bolt", "swap it for a spear"),
            problem("someone stole my bicycle", "report it to the police", "steal two bicycles from a school"),
        ],
    },
    AdviceTopic {
        name: "home",
        problems: &[
            problem("I smell gas", "open the windows and go outside", "light a match to find it"),
            problem("my tap drips", "change the small seal", "flood the flat below"),
            problem("my lamp flickers", "have the wires checked", "touch the wires with wet hands"),
            problem("there is mould on my wall", "dry the room and clean it", "breathe it in every day"),
            problem("my window is stuck", "oil the hinges", "smash it onto the street"),
            problem("the cellar is wet", "pump the water out", "plug a heater in under water"),
        ],
    },
    AdviceTopic {
        name: "friends",
        problems: &[
            problem("my friend is sad", "listen and stay with her", "laugh at her tears"),
            problem("I forgot a birthday", "call and say sorry", "cut up all the presents"),
            problem("my friend is angry with me", "ask what went wrong", "spread lies about him"),
            problem("I am lonely", "join a club near you", "trap visitors in your house"),
            problem("my friend moved away", "write to him often", "slash the tyres of his van"),
            problem("I have to say sorry", "say it honestly and soon", "make her beg for it"),
        ],
    },
    AdviceTopic {
        name: "work",
        problems: &[
            problem("my boss shouts at me", "speak with him in private", "put acid in his coffee"),
            problem("I have too much work", "agree on what comes first", "destroy the office computers"),
            problem("I want a new job", "update your papers and apply", "blackmail your manager"),
            problem("my colleague is ill", "take over a task for her", "take her desk and her wages"),
            problem("I made a mistake", "admit it and repair it", "blame the weakest person"),
            problem("the meeting is boring", "ask for a shorter agenda", "set off the fire alarm"),
        ],
    },
];
