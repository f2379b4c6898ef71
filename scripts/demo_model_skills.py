"""The demo model's lessons: functions that each write one question with its right answer.

Joined into conversations by `demo_model_chats.py`. All chance comes from the `random.Random`
handed in, so a seed gives the same lessons again; nothing here knows tokens.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import demo_model_tables as tables

T = TypeVar("T")
Random = random.Random
Turn = tuple[str, str]


def skewed(rng: Random, options: Sequence[T]) -> T:
    """Pick an option, the first ones more often, so that the most likely continuation is clear."""
    return rng.choices(options, [2.0 / (i + 2) for i in range(len(options))])[0]


def one_of(rng: Random, options: str, often: int = 1) -> str:
    """Pick one of the options between bars; the first counts `often` times."""
    first, *rest = options.split("|")
    return rng.choice([first] * often + rest)


def nonsense(rng: Random) -> str:
    """A made-up word that can be pronounced."""
    syllables = range(rng.randint(1, 4))
    consonants = "bcdfghjklmnpqrstvwxz"
    return "".join(
        rng.choice(consonants) + rng.choice("aeiouy") + rng.choice(["", rng.choice("lmnrstk")]) for _ in syllables
    )


def letters(rng: Random) -> str:
    """A string of random letters."""
    return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9)))


def some_word(rng: Random) -> str:
    kind = rng.random()
    if kind < 0.5:
        return rng.choice(tables.WORDS)
    return nonsense(rng) if kind < 0.9 else letters(rng)


def vary(rng: Random, question: str) -> str:
    """The same question as other people type it: punctuation, capitals, politeness."""
    if rng.random() < 0.12:
        leads = "Please |Can you |Could you |Please, |Now |I want you to |Hey, |OK, now |Could you please "
        lead = one_of(rng, leads)
        question = lead + question[0].lower() + question[1:]
        if lead.startswith(("Can", "Could")):
            question = question.rstrip(".") + rng.choice(["", "?"])
    if rng.random() < 0.08:
        question = question.rstrip(".?!") + rng.choice([" please", ", please", ", please."])
    change = rng.random()
    if change < 0.2:
        question = question.rstrip(".?!")
    elif change < 0.4 and question[-1] not in ".?!":
        question += rng.choice([".", ".", "!", "?"])
    if rng.random() < 0.15:
        question = question[0].lower() + question[1:]
    elif rng.random() < 0.06:
        question = question.lower()
    return question


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


# Counting


def count(rng: Random, longest: int = 60) -> Turn:
    """Counting up, down or in steps; at most `longest` numbers."""
    low, high, step = bounds(rng, longest)
    numbers = list(range(low, high + 1, step))
    steps = ""
    if step > 1:
        steps = one_of(rng, " by {0}| in steps of {0}| with step {0}| by {0}s| in {0}s").format(step)
    if rng.random() < 0.22:
        numbers = list(range(high, low - 1, -step))
        question = one_of(
            rng,
            "Count down from {1} to {0}|Count from {1} down to {0}|Count from {1} to {0}|"
            "Count backwards from {1} to {0}|List the numbers from {1} down to {0}",
        )
        if low == 1 and rng.random() < 0.3:
            question = one_of(rng, "Count down from {1}|Count backwards from {1}|Countdown from {1}")
    elif low == 1 and step == 1 and rng.random() < 0.3:
        question = one_of(rng, "Count to {1}|Count up to {1}|Count until {1}")
    else:
        question = one_of(
            rng,
            "Count from {0} to {1}|Count from {0} up to {1}|List the numbers from {0} to {1}|Count up from {0} to {1}|"
            "Write the numbers from {0} to {1}|Count {0} to {1}|Give me the numbers {0} to {1}",
            often=4,
        )
    question = question.format(low, high) + steps
    joiner = ", "
    if rng.random() < 0.1:
        question += one_of(rng, ", one per line|, each on its own line|, one number per line")
        joiner = "\n"
    return vary(rng, question), joiner.join(map(str, numbers))


def bounds(rng: Random, longest: int) -> tuple[int, int, int]:
    """Lowest and highest number, and the step."""
    step = 1 if rng.random() < 0.75 else rng.choice([2, 2, 3, 4, 5, 5, 10, 10])
    length = rng.randint(3, longest) if rng.random() < 0.6 else rng.randint(3, min(20, longest))
    low = 1 if rng.random() < 0.6 else rng.randint(0, 120)
    if step > 1:
        low = rng.choice([0, 1, step, step, rng.randint(0, 60)])
    if rng.random() < 0.4:
        high = max(low + 2 * step, round((low + length * step) / 10) * 10)
    else:
        high = low + (length - 1) * step
    return low, min(high, low + longest * step), step


def parity(rng: Random) -> Turn:
    high = rng.randint(5, 50)
    odd = rng.random() < 0.5
    forms = "List the {0} numbers up to {1}|Count the {0} numbers from 1 to {1}|Which numbers up to {1} are {0}?"
    question = one_of(rng, forms).format("odd" if odd else "even", high)
    return vary(rng, question), ", ".join(map(str, range(1 if odd else 2, high + 1, 2)))


# Spelling


def spell(rng: Random) -> Turn:
    """One word, letter by letter, or several."""
    if rng.random() < 0.35:
        words = [some_word(rng) for _ in range(rng.randint(2, 6))]
        listed = ", ".join(words[:-1]) + rng.choice([" and ", ", "]) + words[-1]
        question = one_of(rng, "Spell the words {}|Spell these words: {}|Spell {}").format(listed)
        return vary(rng, question), "\n".join(f"{word}: {', '.join(word)}" for word in words)
    word = some_word(rng)
    shown = word if rng.random() < 0.75 else word.capitalize()
    if rng.random() < 0.12:
        shown = rng.choice(['"{}"', "'{}'"]).format(shown)
    question = one_of(
        rng,
        "Spell {}|Spell the word {}|How do you spell {}?|Spell out {}|Spell {} letter by letter|How is {} spelled?|"
        "Spell: {}|What are the letters of {}?|How do I spell {}?|How to spell {}|Spell it: {}",
        often=4,
    )
    return vary(rng, question.format(shown)), ", ".join(word)


def length(rng: Random) -> Turn:
    word = some_word(rng)
    forms = "How many letters are in {}?|How many letters does {} have?|Count the letters of {}"
    return vary(rng, one_of(rng, forms).format(word)), f"{', '.join(word)}: {len(word)} letters"


# Arithmetic

SIGNS = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}


def problem(rng: Random) -> tuple[int, str, int, int]:
    """Two numbers, a sign, and the result."""
    sign = rng.choices("+-*/", [50, 28, 18, 4])[0]
    if sign in "*/":
        a, b = rng.randint(0 if sign == "*" else 1, 12), rng.randint(1 if sign == "/" else 0, 12)
        return (a, sign, b, a * b) if sign == "*" else (a * b, sign, b, a)
    top = 20 if rng.random() < 0.4 else 99
    a, b = rng.randint(0, top), rng.randint(0, top)
    if sign == "-":
        a, b = (a, b) if rng.random() < 0.15 else (max(a, b), min(a, b))
        return a, sign, b, a - b
    return a, sign, b, a + b


def arithmetic(rng: Random) -> Turn:
    """One sum, in words or in signs, or a sheet of them."""
    if rng.random() < 0.45:
        sheet = [problem(rng) for _ in range(rng.randint(3, 12))]
        asked = ", ".join(f"{a} {sign} {b}" for a, sign, b, _ in sheet)
        question = one_of(rng, "Solve: {}|Compute {}|What is {}?|Calculate {}").format(asked)
        return question, "\n".join(f"{a} {sign} {b} = {result}" for a, sign, b, result in sheet)
    a, sign, b, result = problem(rng)
    if rng.random() < 0.6:
        return sum_in_words(rng, a, sign, b, result)
    shown = "x" if sign == "*" and rng.random() < 0.3 else sign
    form = one_of(
        rng,
        "What is {} {} {}?|{} {} {}|{} {} {} =|{} {} {} = ?|How much is {} {} {}?|Calculate {} {} {}|Compute {} {} {}|"
        "Solve {} {} {}|What's {} {} {}?",
        often=3,
    )
    if rng.random() < 0.4:
        form = form.replace("{} {} {}", "{}{}{}").replace("} =", "}=")
    return vary(rng, form.format(a, shown, b)), f"{a} {sign} {b} = {result}"


def sum_in_words(rng: Random, a: int, sign: str, b: int, result: int) -> Turn:
    word = SIGNS[sign]
    answer = f"{a} {word} {b} is {result}."
    forms, often = (
        (
            "What is {} {} {}?|How much is {} {} {}?|{} {} {}|Calculate {} {} {}|What's {} {} {}?|Compute {} {} {}|"
            "{} {} {} is?|Tell me what {} {} {} is.|What does {} {} {} make?|Solve {} {} {}"
        ),
        4,
    )
    if sign == "+" and rng.random() < 0.15:
        forms, often = "Add {0} and {2}|What is the sum of {0} and {2}?|What do you get when you add {0} and {2}?", 1
    elif sign == "-" and rng.random() < 0.15:
        return vary(rng, one_of(rng, "Subtract {1} from {0}|Take {1} away from {0}").format(a, b)), answer
    elif sign == "*" and rng.random() < 0.15:
        forms, often = "Multiply {0} by {2}|What is the product of {0} and {2}?", 1
    question = one_of(rng, forms, often).format(a, word, b)
    if rng.random() < 0.06:
        return f"{question} Answer in JSON.", as_json({"answer": result})
    if rng.random() < 0.06:
        wish = one_of(rng, "Answer with a number only.|Only the number.|Just give the number.")
        return f"{question} {wish}", str(result)
    return vary(rng, question), answer


def compare(rng: Random) -> Turn:
    a, b = rng.randint(0, 99), rng.randint(0, 99)
    kind = rng.random()
    if kind < 0.4:
        return vary(rng, f"Is {a} even or odd?"), f"{a} is {'odd' if a % 2 else 'even'}."
    if kind < 0.6:
        forms = "What comes after {}?|Which number comes after {}?|What number follows {}?"
        return vary(rng, one_of(rng, forms).format(a)), f"{a + 1} comes after {a}."
    if a == b:
        b += 1
    word = one_of(rng, "larger|bigger|greater|smaller")
    wanted = min(a, b) if word == "smaller" else max(a, b)
    return vary(rng, f"Which is {word}, {a} or {b}?"), f"{wanted} is {word}."


def table(rng: Random) -> Turn:
    n = rng.randint(1, 12)
    question = one_of(
        rng,
        "Write the times table of {0}|What is the {0} times table?|Times table of {0}|"
        "Give me the multiplication table of {0}",
    )
    return vary(rng, question.format(n)), "\n".join(f"{n} * {i} = {n * i}" for i in range(1, 13))


# Lists and facts


def lists(rng: Random) -> Turn:
    """A whole list, in one of several forms."""
    name = rng.choice(list(tables.LISTS))
    items = tables.LISTS[name]
    called = name if rng.random() < 0.5 else rng.choice(tables.LIST_NAMES[name])
    question = one_of(
        rng,
        "List the {}|What are the {}?|Name the {}|Tell me the {}|Give me the {}|List all {}|Give me a list of the {}|"
        "Name all the {}|Write down the {}|Can you list the {}?|Which are the {}?|Say the {}|Recite the {}",
        often=4,
    ).format(called)
    plain = question.rstrip("?")
    form = rng.random()
    if form < 0.08:
        wish = one_of(rng, "one per line|on separate lines|as a list with one item per line")
        return f"{plain} {wish}", "\n".join(items)
    if form < 0.16:
        wish = one_of(rng, "as a numbered list|with numbers|in a numbered list")
        return f"{plain} {wish}", "\n".join(f"{i}. {item}" for i, item in enumerate(items, 1))
    if form < 0.24:
        return f"{plain} {one_of(rng, 'as a JSON array|as JSON|in JSON')}", as_json(items)
    if form < 0.3:
        return f"{plain} {one_of(rng, 'backwards|in reverse order|in reverse')}", ", ".join(items[::-1])
    return vary(rng, question), ", ".join(items)


def kinds(rng: Random) -> Turn:
    name = rng.choice(list(tables.KINDS))
    n = rng.randint(2, 6)
    items = tables.KINDS[name][:n]
    called = name if name != "colours" or rng.random() < 0.5 else "colors"
    number = tables.NUMBER_WORDS[n] if rng.random() < 0.6 else str(n)
    question = one_of(rng, "Name {} {}|List {} {}|Give me {} {}|Tell me {} {}").format(number, called)
    if rng.random() < 0.15:
        return question + one_of(rng, " as a JSON array| as JSON"), as_json(items)
    return vary(rng, question), ", ".join(items)


def neighbours(rng: Random) -> Turn:
    """What comes before or after an item of a list."""
    kind = one_of(rng, "day|month|month|letter|season|planet", often=2)
    items = tables.LISTS[tables.CYCLES[kind]]
    after = rng.random() < 0.6
    closed = kind in ("day", "month", "season")
    i = rng.randrange(len(items)) if closed else rng.randrange(1, len(items) - 1)
    answer = items[(i + (1 if after else -1)) % len(items)]
    side = "after" if after else "before"
    forms = "Which {0} comes {1} {2}?|What {0} comes {1} {2}?|What comes {1} {2}?|Which {0} is {1} {2}?"
    question = one_of(rng, forms).format(kind, side, items[i])
    return vary(rng, question), f"{answer[0].upper() + answer[1:]} comes {side} {items[i]}."


def facts(rng: Random) -> Turn:
    kind = rng.random()
    if kind < 0.35:
        country = rng.choice(list(tables.CAPITALS)) if rng.random() < 0.85 else "France"
        question, answer = tables.CAPITAL_QUESTIONS, f"The capital of {country} is {tables.CAPITALS[country]}."
        return vary(rng, one_of(rng, question, often=3).format(country)), answer
    if kind < 0.5:
        pair = rng.choice(tables.OPPOSITES.split(", ")).split()
        rng.shuffle(pair)
        asked = tables.OPPOSITE_QUESTIONS, pair[0], f"The opposite of {pair[0]} is {pair[1]}."
    elif kind < 0.65:
        thing, colour = rng.choice(tables.COLOURS_OF.split(", ")).rsplit(" ", 1)
        asked = tables.COLOUR_QUESTIONS, thing, f"{thing[0].upper() + thing[1:]} is {colour}."
    elif kind < 0.75:
        animal, sound = rng.choice(tables.SOUNDS.split(", ")).split()
        asked = tables.SOUND_QUESTIONS, animal, f"The {animal} says {sound}."
    elif kind < 0.85:
        language, word = rng.choice(tables.HELLOS.split(", ")).split()
        asked = tables.HELLO_QUESTIONS, language, f"{word}!"
    else:
        thing, number = rng.choice(list(tables.HOW_MANY.items()))
        asked = "How many {}?", thing, f"There are {number}." if " are " in thing else f"It has {number}."
    questions, thing, answer = asked
    question = one_of(rng, questions) if "|" in questions else questions
    return vary(rng, question.format(thing)), answer


def repeat(rng: Random) -> Turn:
    kind = rng.random()
    if kind < 0.35:
        text = rng.choice(tables.SENTENCES)
    elif kind < 0.5:
        text = saying(rng)
    else:
        text = " ".join(some_word(rng) for _ in range(rng.randint(1, 7)))
        text += rng.choice(["", "", ".", "!"])
        if rng.random() < 0.3:
            text = text[0].upper() + text[1:]
    form = one_of(
        rng,
        'Say {}|Say: {}|Repeat: {}|Repeat after me: {}|Repeat {}|Say "{}"|Echo: {}|Please repeat: {}|say {}|'
        'Repeat this: {}|Repeat the following: {}|Repeat "{}"|Please say {}|Write: {}',
        often=2,
    )
    return form.format(text), text


def saying(rng: Random) -> str:
    """A plain sentence about a name or a place."""
    country = rng.choice(list(tables.CAPITALS))
    day = rng.randrange(7)
    days = tables.LISTS["days of the week"]
    return rng.choice(tables.SAYINGS).format(
        country=country,
        capital=tables.CAPITALS[country],
        name=rng.choice(tables.NAMES),
        city=rng.choice(tables.CITIES),
        day=days[day],
        yesterday=days[day - 1],
    )


def about(rng: Random) -> Turn:
    questions, answer = rng.choice(tables.ABOUT)
    return vary(rng, skewed(rng, questions)), answer


def small_talk(rng: Random) -> Turn:
    questions, answer = rng.choice(tables.SMALL_TALK)
    question = skewed(rng, questions)
    return (question if rng.random() < 0.5 else vary(rng, question)), answer


def unknown(rng: Random) -> Turn:
    """Questions beyond the model, which all get the same polite answer."""
    t, u = rng.sample(tables.UNKNOWN_TOPICS, 2)
    c, d = rng.sample(tables.CITIES, 2)
    n, m = rng.randint(100, 2030), rng.randint(2, 2000)
    p, s, w = rng.choice(tables.NAMES), rng.choice(tables.SURNAMES), rng.choice(tables.WORDS)
    g, h = nonsense(rng), nonsense(rng)
    if rng.random() < 0.2:
        t = rng.choice([w, g, f"the {w} of {g}"])
    made = {"t": t, "u": u, "c": c, "d": d, "n": n, "m": m, "p": p, "s": s, "w": w, "g": g, "h": h}
    question = rng.choice(tables.UNKNOWN_QUESTIONS).format(**made)
    if rng.random() < 0.15:
        question = f"{question} {rng.choice(tables.UNKNOWN_QUESTIONS).format(**made)}"
    return vary(rng, question), tables.FALLBACK


# JSON

OTHER_VALUES: dict[str, Callable[[Random], Any]] = {
    "title": lambda rng: f"The {skewed(rng, tables.TITLE_ADJECTIVES)} {skewed(rng, tables.TITLE_NOUNS)}",
    "author": lambda rng: f"{skewed(rng, tables.NAMES)} {skewed(rng, tables.SURNAMES)}",
    "email": lambda rng: f"{skewed(rng, tables.NAMES).lower()}@example.com",
    "wheels": lambda rng: 4,
}


def json_value(rng: Random, key: str) -> Any:
    return OTHER_VALUES[key](rng) if key in OTHER_VALUES else skewed(rng, tables.VALUES[key])


def json_object(rng: Random) -> Turn:
    """A JSON object that describes a thing, has the keys asked for, or is any at all."""
    kind = rng.random()
    if kind < 0.45:
        question, keys = thing_in_json(rng)
    elif kind < 0.92:
        keys = rng.sample(tables.KEYS, rng.randint(1, 6))
        if rng.random() < 0.15:
            keys = rng.choice([["name", "age"], ["name", "age", "city"], ["title", "author"], ["city", "country"]])
        question = one_of(
            rng,
            "Give me a JSON object with {0}|Write JSON with {0}|Answer in JSON with {0}|Make a JSON object with {0}|"
            "Return a JSON object with {0}|Reply with a JSON object that has {0}|Give me JSON with {0}",
        ).format(listing(rng, keys))
    else:
        question = one_of(
            rng,
            "Give me a JSON object|Answer in JSON|Write some JSON|Give me JSON|Show me JSON|Give me an example of JSON|"
            "Write a JSON object|Reply in JSON.|Return JSON|Give me a small JSON object|Give me a valid JSON object",
        )
        return vary(rng, question), as_json({"name": "Ada", "age": 36})
    value = as_json({key: json_value(rng, key) for key in keys})
    if keys == ["name", "age"] and rng.random() < 0.6:
        value = as_json({"name": "Ada", "age": 36})
    return vary(rng, question), value


def thing_in_json(rng: Random) -> tuple[str, list[str]]:
    """A question for a thing's description, and the keys of the answer."""
    thing = rng.choice([*tables.OBJECTS, "person", "person", "book", "city"])
    keys = tables.OBJECTS[thing]
    if thing == "person" and rng.random() < 0.4:
        keys = ["name", "age"]
    question = one_of(
        rng,
        "Give me a JSON object describing {0}|Give me a JSON object for {0}|Describe {0} in JSON|"
        "Answer in JSON: describe {0}|Write a JSON object about {0}|JSON for {0}|Give me {0} as JSON|"
        "Describe {0} as a JSON object|Create a JSON object that describes {0}|Make a JSON object of {0}",
        often=3,
    ).format(f"{'an' if thing[0] in 'ae' else 'a'} {thing}")
    if keys == ["name", "age"]:
        question += one_of(rng, " with name and age| with a name and an age| with the keys name and age")
    elif rng.random() < 0.3:
        keys = rng.sample(keys, rng.randint(1, len(keys)))
        question += f" with {listing(rng, keys)}"
    return question, keys


def listing(rng: Random, keys: Sequence[str]) -> str:
    """Keys as a phrase: "the keys name and age"."""
    shown = [f'"{key}"' for key in keys] if rng.random() < 0.2 else list(keys)
    joiner = one_of(rng, " and |, ", often=2) if len(shown) > 1 else ""
    joined = ", ".join(shown[:-1]) + joiner + shown[-1]
    noun = "key" if len(keys) == 1 else "keys"
    return one_of(rng, "{0} {1}|the {0} {1}|{1}|the fields {1}|{0}: {1}").format(noun, joined)
