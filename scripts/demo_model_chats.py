"""The demo model's conversations: lessons joined into chats, chats with tools, and text without roles.

Used by `train_demo_model.py`, which turns chats into tokens. All chance comes from the
`random.Random` handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import demo_model_skills as skills
import demo_model_tables as tables
from demo_model_skills import Random, Turn, as_json, one_of, skewed, vary
from demo_model_stories import story, story_text

Chat = dict[str, Any]
ROLES = ("user", "assistant")
LESSON_WEIGHTS: dict[Callable[[Random], Turn], float] = {
    skills.count: 8,
    skills.parity: 1,
    skills.spell: 32,
    skills.length: 2,
    skills.arithmetic: 28,
    skills.compare: 4,
    skills.table: 0.7,
    skills.lists: 9,
    skills.kinds: 4,
    skills.neighbours: 4,
    skills.facts: 6,
    skills.repeat: 12,
    skills.about: 8,
    skills.small_talk: 5,
    skills.unknown: 6,
    skills.json_object: 10,
    story: 2,
}
LESSONS = list(LESSON_WEIGHTS)


def turn(rng: Random) -> Turn:
    return rng.choices(LESSONS, list(LESSON_WEIGHTS.values()))[0](rng)


def chat(rng: Random, longest: int = 60) -> Chat:
    """A conversation as `{"messages": [...], "tools": [...] or None}`.

    `longest` bounds counting; more than 60 also brings long stories.
    """
    kind = rng.random()
    if kind < 0.06:
        return tool_chat(rng)
    if kind < 0.10:
        turns = memory(rng)
    elif kind < 0.14:
        turns = again(rng)
    elif longest > 60 and kind < 0.5:
        turns = [skills.count(rng, longest) if rng.random() < 0.75 else story(rng, 8)]
    else:
        turns = [turn(rng) for _ in range(rng.choice([1, 1, 1, 1, 2, 2, 3, 4]))]
    return {"messages": [*system(rng), *messages(turns)], "tools": None}


def system(rng: Random) -> list[dict[str, Any]]:
    return [{"role": "system", "content": rng.choice(tables.SYSTEMS)}] if rng.random() < 0.3 else []


def messages(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Questions and answers as messages of the user and the assistant."""
    return [{"role": role, "content": text} for pair in turns for role, text in zip(ROLES, pair, strict=True)]


def memory(rng: Random) -> list[Turn]:
    """Says a thing early in a conversation and asks for it later."""
    name, city, colour = rng.choice(tables.NAMES), rng.choice(tables.CITIES), rng.choice(tables.KINDS["colours"])
    my_name = one_of(rng, "My name is {0}.|I am {0}.|Hello, I am {0}|Hi, my name is {0}").format(name)
    ask_name = one_of(rng, "What is my name?|Do you remember my name?|Who am I?|What's my name?")
    ask_city = one_of(rng, "Where do I live?|In which city do I live?")
    my_colour = one_of(rng, "My favourite colour is {0}.|My favorite color is {0}.").format(colour)
    ask_colour = one_of(rng, "What is my favourite colour?|What is my favorite color?|Which colour do I like?")
    first, question, answer = rng.choice(
        [
            ((my_name, f"Nice to meet you, {name}!"), ask_name, f"Your name is {name}."),
            ((f"I live in {city}.", f"{city} is a nice place to live."), ask_city, f"You live in {city}."),
            (
                (my_colour, f"{colour.capitalize()} is a nice colour."),
                ask_colour,
                f"Your favourite colour is {colour}.",
            ),
        ]
    )
    return [first, *(turn(rng) for _ in range(rng.choice([0, 0, 1, 1, 2]))), (vary(rng, question), answer)]


def again(rng: Random) -> list[Turn]:
    """A question, then a wish that refers to its answer."""
    if rng.random() < 0.5:
        high = rng.randint(3, 20)
        numbers = [str(n) for n in range(1, high + 1)]
        first = vary(rng, f"Count from 1 to {high}"), ", ".join(numbers)
        return [
            first,
            (vary(rng, one_of(rng, "And backwards?|Now backwards|And back?|Now count back")), ", ".join(numbers[::-1])),
        ]
    lesson = rng.choice([skills.count, skills.spell, skills.lists, skills.arithmetic, skills.json_object])
    first = lesson(rng)
    if len(first[1]) > 300:
        first = skills.arithmetic(rng)
    wish = one_of(rng, "Again|Repeat that|Say that again|Once more|Can you repeat that?")
    return [first, (vary(rng, wish), first[1])]


def plain_text(rng: Random) -> str:
    """Text without roles, for plain completions."""
    kind = rng.random()
    if kind < 0.3:
        start = rng.randint(0, 50)
        return ", ".join(map(str, range(start, start + rng.randint(10, 80))))
    if kind < 0.5:
        return story_text(rng, rng.randint(1, 2))
    if kind < 0.6:
        return ", ".join(tables.LISTS[rng.choice(list(tables.LISTS))])
    if kind < 0.8:
        return " ".join(skewed(rng, tables.ABOUT)[1] for _ in range(rng.randint(1, 3)))
    return " ".join(skills.saying(rng) for _ in range(rng.randint(1, 5)))


# Tools


def tool(name: str, description: str, **parameters: str) -> dict[str, Any]:
    """An OpenAI-style function tool; parameters are given as `name="type"`."""
    properties = {key: {"type": kind} for key, kind in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


# A tool, a question that needs it, the arguments of the call, its result, and the answer told from that.
ToolCase = tuple[dict[str, Any], str, dict[str, Any], dict[str, Any] | str, str]


def weather_case(rng: Random) -> ToolCase:
    city, degrees, sky = rng.choice(tables.CITIES), rng.randint(0, 35), one_of(rng, "sunny|cloudy|rainy|windy")
    name = one_of(rng, "get_weather|get_current_weather", often=2)
    key = one_of(rng, "city|location", often=2)
    description = one_of(
        rng,
        "Get the weather of a city.|Get the current weather in a given location|Get the weather|"
        "Returns the weather for a city.",
    )
    question = one_of(
        rng,
        "What is the weather in {}?|What's the weather like in {}?|How is the weather in {}?|Weather in {}|"
        "Tell me the weather in {}|Is it raining in {}?|What is the weather like in {} today?|Is it cold in {}?|"
        "What's the weather in {} right now?",
        often=2,
    ).format(city)
    result = rng.choice([{"temperature": degrees, "sky": sky}, f"{sky}, {degrees} degrees"])
    answer = f"In {city} it is {sky}, with {degrees} degrees."
    return tool(name, description, **{key: "string"}), question, {key: city}, result, answer


def add_case(rng: Random) -> ToolCase:
    a, b = rng.randint(0, 999), rng.randint(0, 999)
    forms = "What is {} plus {}?|Add {} and {}|How much is {} + {}?|What is {} + {}?|What is the sum of {} and {}?"
    question = one_of(rng, forms).format(a, b)
    kind = one_of(rng, "integer|number")
    description = one_of(rng, "Add two numbers.|Adds a and b|Add two integers")
    result = rng.choice([{"result": a + b}, str(a + b)])
    return tool("add", description, a=kind, b=kind), question, {"a": a, "b": b}, result, f"The result is {a + b}."


def time_case(rng: Random) -> ToolCase:
    city, clock = rng.choice(tables.CITIES), f"{rng.randint(0, 23)}:{rng.randint(10, 59)}"
    forms = "What time is it in {}?|Tell me the time in {}|What is the time in {}?|How late is it in {}?"
    question = one_of(rng, forms).format(city)
    result = rng.choice([{"time": clock}, clock])
    clock_tool = tool("get_time", "Get the time in a city.", city="string")
    return clock_tool, question, {"city": city}, result, f"In {city} it is {clock}."


def search_case(rng: Random) -> ToolCase:
    if rng.random() < 0.5:
        query = rng.choice(tables.UNKNOWN_TOPICS)
    else:
        query = f"{rng.choice(tables.WORDS)} {skills.some_word(rng)}"
    question = one_of(rng, "Search for {}|Look up {}|Search the web for {}|Find {}").format(query)
    hits = rng.randint(2, 90)
    search = tool("search", "Search the web.", query="string")
    return search, question, {"query": query}, {"hits": hits}, f"I found {hits} results."


def timer_case(rng: Random) -> ToolCase:
    minutes = rng.randint(1, 60)
    forms = "Set a timer for {} minutes|Start a timer of {} minutes|Wake me in {} minutes"
    question = one_of(rng, forms).format(minutes)
    return tool("set_timer", "Set a timer.", minutes="integer"), question, {"minutes": minutes}, {"ok": True}, "Done."


TOOL_CASES = [weather_case, weather_case, weather_case, add_case, add_case, time_case, search_case, timer_case]


def tool_chat(rng: Random) -> Chat:
    """A chat with tools: a call, perhaps its result and the answer; or a question that needs none."""
    makers = rng.sample(TOOL_CASES, rng.choice([1, 1, 2, 3]))
    cases = [maker(rng) for maker in dict.fromkeys(makers)]
    chosen, question, arguments, result, answer = rng.choice(cases)
    said = system(rng)
    if rng.random() < 0.2:
        lesson = rng.choice([skills.spell, skills.count, skills.small_talk, skills.lists, skills.about])
        said += messages([lesson(rng)])
    else:
        if rng.random() < 0.15:
            said += messages([rng.choice([skills.small_talk, skills.spell])(rng)])
        call = {"type": "function", "function": {"name": chosen["function"]["name"], "arguments": arguments}}
        said.append({"role": "user", "content": vary(rng, question)})
        said.append({"role": "assistant", "content": "", "tool_calls": [call]})
        if rng.random() < 0.5:
            said.append({"role": "tool", "content": result if isinstance(result, str) else as_json(result)})
            said.append({"role": "assistant", "content": answer})
    return {"messages": said, "tools": [case[0] for case in cases]}
