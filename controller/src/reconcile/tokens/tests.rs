//! Goal: no two nodes ever refuse each other, whatever a user does to the Secrets and whenever the operator restarts, and
//! in the end the nodes accept the wanted token alone. Method: each decision in a table, and random schedules of edits,
//! of kubelets that write late, of nodes that start and do not answer, and of operators that forget.

use super::*;

fn stored(wanted: Option<&str>, accepted: &[&str], dropped: &[&str]) -> Stored {
    let owned = |tokens: &[&str]| tokens.iter().map(|token| (*token).to_owned()).collect();
    Stored {
        wanted: wanted.map(|wanted| wanted.as_bytes().to_vec()),
        accepted: owned(accepted),
        dropped: owned(dropped),
    }
}

fn added(stored: &Stored) -> Tokens {
    add(stored, || "made".to_owned())
}

#[test]
fn the_wanted_token_goes_above_those_before() {
    for (name, before, accepted, dropped) in [
        ("a new cluster", stored(None, &[], &[]), vec!["made"], vec![]),
        ("a cluster of an earlier operator", stored(Some("a"), &[], &[]), vec!["a"], vec![]),
        ("nothing to do", stored(Some("a"), &["a"], &[]), vec!["a"], vec![]),
        ("edited", stored(Some("b\n"), &["a"], &[]), vec!["b", "a"], vec![]),
        ("edited again", stored(Some("c"), &["b", "a"], &["x"]), vec!["c", "b", "a"], vec!["x"]),
        ("edited back", stored(Some("a"), &["b", "a"], &[]), vec!["a", "b"], vec![]),
        ("back to one that was dropped", stored(Some("a"), &["b"], &["a", "x"]), vec!["a", "b"], vec!["x"]),
        ("deleted", stored(None, &["a"], &[]), vec!["made", "a"], vec![]),
    ] {
        let tokens = added(&before);
        assert_eq!((tokens.accepted, tokens.dropped), (owned(&accepted), owned(&dropped)), "{name}");
        if let Some(wanted) = before.wanted {
            assert_eq!(tokens.wanted, wanted, "{name}: as the user stored it");
        }
    }
}

fn owned(tokens: &[&str]) -> Vec<String> {
    tokens.iter().map(|token| (*token).to_owned()).collect()
}

#[test]
fn what_is_no_token_changes_nothing_and_says_so() {
    for wanted in ["two words", "a\nb", "#comment", "naïve", &"x".repeat(1025)] {
        let tokens = added(&stored(Some(wanted), &["a"], &[]));
        assert_eq!(tokens.accepted, ["a"]);
        assert_eq!(tokens.wanted, wanted.as_bytes());
        let Stage::Malformed(why) = tokens.stage else { panic!("{wanted:?} is a token") };
        assert!(why.contains("one line of printable ASCII") && !why.contains(wanted), "{why}");
    }
    let tokens = added(&stored(Some("two words"), &[], &[]));
    assert_eq!(tokens.accepted, ["made"], "a new cluster is guarded all the same");
}

#[test]
fn the_file_does_not_grow_without_limit() {
    let many: Vec<String> = (0..TOKENS_MAX).map(|number| format!("token-{number}")).collect();
    let full = Stored { wanted: Some(b"new".to_vec()), accepted: many.clone(), dropped: vec![] };
    let tokens = added(&full);
    assert_eq!(tokens.accepted, many);
    let asked = question(&tokens, &full).expect("the rotation goes on");
    assert_eq!(asked, Question::Accepts("token-0".to_owned()));
    let tokens = drop_old(tokens, &asked, &[("n".to_owned(), Said::Refuses)]);
    assert!(matches!(&tokens.stage, Stage::Queued(why) if why.contains("n: has not read")), "{:?}", tokens.stage);
    let dropping = Stored { wanted: Some(b"new".to_vec()), accepted: vec!["a".to_owned()], dropped: many };
    assert_eq!(added(&dropping).accepted, ["a"]);
}

#[test]
fn each_step_waits_for_every_node_and_names_those_that_it_waits_for() {
    let before = stored(Some("b"), &["b", "a"], &[]);
    let tokens = added(&before);
    let asked = question(&tokens, &before).expect("a question");
    let silent = || Said::Nothing("demo-follower-2: no answer within 1500 ms".to_owned());
    let said = [("x".to_owned(), Said::Accepts), ("y".to_owned(), Said::Refuses), ("z".to_owned(), silent())];
    for waits in [&said[..], &said[..2], &said[1..]] {
        let tokens = drop_old(tokens.clone(), &asked, waits);
        assert_eq!((tokens.accepted.as_slice(), tokens.dropped.len()), (&owned(&["b", "a"])[..], 0));
    }
    let Stage::Adding(words) = drop_old(tokens.clone(), &asked, &said).stage else { panic!("it waits") };
    let expected = "the new token is accepted by 1 of 3 nodes: y: has not read the new token yet; demo-follower-2: no answer \
                    within 1500 ms";
    assert_eq!(words, expected);
    let tokens = drop_old(tokens, &asked, &said[..1]);
    assert_eq!((tokens.accepted, tokens.dropped), (owned(&["b"]), owned(&["a"])));

    let before = stored(Some("b"), &["b"], &["a"]);
    let tokens = added(&before);
    assert!(tokens.rotates());
    let asked = question(&tokens, &before).expect("a question");
    assert_eq!(asked, Question::Refuse(owned(&["a"])));
    let waits = drop_old(tokens.clone(), &asked, &said);
    assert_eq!(waits.dropped, ["a"]);
    assert!(matches!(waits.stage, Stage::Dropping(words) if words.contains("x: still accepts an earlier token")));
    let over = drop_old(tokens, &asked, &said[1..2]);
    assert_eq!((over.stage.clone(), over.rotates()), (Stage::Applied, false));
}

#[test]
fn no_node_is_asked_before_the_file_is_written() {
    let before = stored(Some("b"), &["a"], &[]);
    assert_eq!(question(&added(&before), &before), None);
}

/// The two Secrets, the files of the nodes, and what the operator remembers.
struct World {
    secrets: Stored,
    nodes: Vec<Vec<String>>,
    remembered: Option<Tokens>,
    made: u32,
}

impl World {
    /// One reconciliation, which ends before it writes all if `cut`.
    fn operate(&mut self, silent: usize, cut: bool) -> Stage {
        let mut stored = self.secrets.clone();
        if let (true, Some(before)) = (stored.accepted.is_empty(), self.remembered.clone()) {
            (stored.accepted, stored.dropped) = (before.accepted, before.dropped);
        }
        let made = &mut self.made;
        *made += 1;
        let mut tokens = add(&stored, || format!("made-{made}"));
        if let Some(asked) = question(&tokens, &stored) {
            let says = |file: &Vec<String>| match &asked {
                Question::Accepts(token) if file.contains(token) => Said::Accepts,
                Question::Refuse(tokens) if tokens.iter().any(|token| file.contains(token)) => Said::Accepts,
                _ => Said::Refuses,
            };
            let said: Vec<(String, Said)> = self
                .nodes
                .iter()
                .enumerate()
                .map(|(node, file)| (node, if node == silent { Said::Nothing(String::new()) } else { says(file) }))
                .map(|(node, said)| (node.to_string(), said))
                .collect();
            tokens = drop_old(tokens, &asked, &said);
        }
        self.remembered = Some(tokens.clone());
        self.secrets.wanted = Some(tokens.wanted);
        if !cut {
            (self.secrets.accepted, self.secrets.dropped) = (tokens.accepted, tokens.dropped);
        }
        tokens.stage
    }

    fn nodes_work_together(&self, what: &str) {
        for one in &self.nodes {
            for other in &self.nodes {
                assert!(one.iter().any(|token| other.contains(token)), "after {what}: {one:?} and {other:?}");
            }
        }
    }
}

/// Random numbers that are the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).expect("64 bits") % end
    }
}

#[test]
fn no_two_nodes_ever_refuse_each_other_and_the_wanted_token_prevails() {
    for seed in 1..=300_u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut world = World { secrets: Stored::default(), nodes: vec![], remembered: None, made: 0 };
        world.operate(usize::MAX, false);
        world.nodes = vec![world.secrets.accepted.clone(); 4];
        for step in 0..200 {
            let node = random.below(4);
            let what = match random.below(10) {
                0 => {
                    world.secrets.wanted = Some(format!("edited-{}", random.below(6)).into_bytes());
                    "an edit"
                }
                1 if random.below(3) == 0 => {
                    world.secrets.wanted = None;
                    "a deletion"
                }
                2 if random.below(5) == 0 => {
                    // While the operator works: it has looked since it began.
                    world.operate(usize::MAX, false);
                    (world.secrets.accepted, world.secrets.dropped) = (vec![], vec![]);
                    world.operate(node, false);
                    "a deletion of the nodes' Secret"
                }
                3 => {
                    world.remembered = None;
                    "a restart of the operator"
                }
                // A kubelet that looks, or a pod that starts.
                4..=6 => {
                    world.nodes[node] = world.secrets.accepted.clone();
                    "a new file"
                }
                other => {
                    world.operate(if other == 7 { node } else { usize::MAX }, random.below(5) == 0);
                    "a look"
                }
            };
            world.nodes_work_together(&format!("{what} in step {step} of seed {seed}"));
        }
        let mut looks = 0;
        while world.operate(usize::MAX, false) != Stage::Applied || world.nodes.iter().any(|file| file.len() != 1) {
            looks += 1;
            assert!(looks < 20, "seed {seed}: {:?} {:?}", world.secrets, world.nodes);
            world.nodes.iter_mut().for_each(|file| file.clone_from(&world.secrets.accepted));
            world.nodes_work_together("the last looks");
        }
        let wanted = String::from_utf8(world.secrets.wanted.clone().expect("a token")).expect("text");
        assert!(world.nodes.iter().all(|file| *file == [wanted.clone()]), "seed {seed}");
    }
}
