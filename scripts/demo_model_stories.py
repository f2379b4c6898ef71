"""The demo model's stories: longer texts put together from sentences that fit.

A hero in a place has one or more adventures, each with a thing, a helper and a trouble.
All chance comes from the `random.Random` handed in.
"""

from __future__ import annotations

import demo_model_tables as tables
from demo_model_skills import Random, Turn, one_of, skewed, vary


def pick(rng: Random, options: str) -> str:
    """One of the options between bars, the first ones more often."""
    return skewed(rng, options.split("|"))


def opening(rng: Random, hero: str, name: str, place: str) -> str:
    mood, other = rng.sample(tables.MOODS, 2)
    habit = pick(rng, "walk along the river|read in the shade of a tree|watch the stars|talk to the neighbours")
    return (
        f"Once upon a time there was a {hero} named {name}, who lived in {place}. {name} was {mood} and {other}, "
        f"and liked to {habit} every {pick(rng, 'morning|evening|day')}."
    )


def episode(rng: Random, name: str) -> list[str]:
    """One adventure in two paragraphs."""
    thing, helper = skewed(rng, tables.THINGS), skewed(rng, tables.HELPERS)
    trouble, relief = skewed(rng, tables.TROUBLES)
    bare, friend = (phrase.split(" ", 1)[1] for phrase in (thing, helper))
    find = pick(
        rng,
        f"One day {name} found {thing} under a tree.|One morning {name} found {thing} in front of the door.|"
        f"One evening {name} saw {thing} in the grass.",
    )
    wonder = pick(
        rng, f'"Where does the {bare} come from?" asked {name}.|"What can I do with the {bare}?" thought {name}.'
    )
    advice = pick(
        rng,
        "Keep it well, you will need it soon.|It belongs to the one who helps others.|"
        "Take it with you wherever you go.",
    )
    fear = pick(rng, "Everybody was afraid.|Nobody knew what to do.|The people were worried.")
    act = pick(
        rng,
        f"But {name} took the {bare} and went out with the {friend}.|"
        f"But {name} was not afraid, and called the {friend} for help.",
    )
    work = pick(
        rng,
        "They worked all night, and did not give up.|Together they worked until the sun came up.|"
        "They walked for a long time, and they sang on the way.",
    )
    return [
        f'{find} {wonder} Just then {helper} came by and said: "{advice}"',
        f"The next day {trouble}. {fear} {act} {work} In the end {relief}.",
    ]


def story_text(rng: Random, episodes: int, hero: str | None = None, name: str | None = None) -> str:
    """A whole story: an opening, its episodes, and what the hero learned."""
    hero, name = hero or skewed(rng, tables.HEROES), name or skewed(rng, tables.NAMES)
    place = skewed(rng, tables.PLACES)
    parts = [opening(rng, hero, name, place)]
    for _ in range(episodes):
        parts += episode(rng, name)
    lesson = skewed(rng, tables.LESSONS)
    parts.append(f"So {name} the {hero} learned that {lesson}. And all of them lived happily in {place}. The end.")
    return "\n\n".join(parts)


def story(rng: Random, longest: int = 2) -> Turn:
    """A wish for a story, and the story, of at most `longest` episodes."""
    question = one_of(
        rng,
        "Tell me a story|Write a story|Tell a story|Write me a short story|Tell me a short story|"
        "I want to hear a story",
        often=2,
    )
    episodes = 1 if "short" in question else rng.randint(1, longest)
    if longest > 2 and rng.random() < 0.8:
        question = one_of(
            rng, "Tell me a long story|Write a long story|Tell me a very long story|Write a very long story"
        )
        episodes = rng.randint(3, longest)
    hero = name = None
    if rng.random() < 0.5:
        hero = rng.choice(tables.HEROES)
        question += f" about a {hero}"
        if rng.random() < 0.4:
            name = rng.choice(tables.NAMES)
            question += f" named {name}"
    return vary(rng, question), story_text(rng, episodes, hero, name)
