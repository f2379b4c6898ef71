"""The tables the demo model's training text is made from: words, lists, facts, questions and answers.

Read by `demo_model_skills.py`, which turns them into chats. Knows nothing of tokens or of models.
"""
# ruff: noqa: E501

from __future__ import annotations

# fmt: off
NAMES = ["Ada", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Hugo", "Iris", "Jack", "Kira", "Leo", "Mia", "Noah", "Olive", "Paul", "Rosa", "Sam", "Tara", "Victor", "Wendy", "Zoe", "Alice", "Bob", "Carol", "Dan", "Eva", "Frank", "Gina", "Henry", "Ivan", "Julia", "Karl", "Lena", "Max", "Nina", "Oscar", "Petra", "Ruth", "Simon", "Tom", "Uma", "Vera", "Will", "Anna", "Maria", "John", "James", "Sara", "Linda", "Alex", "Chris"]
SURNAMES = ["Miller", "Stone", "Hill", "Brook", "Field", "Wood", "Baker", "Carter", "Fisher", "Gardner", "Hunter", "King", "Lane", "Marsh", "North", "Park", "Reed", "Smith", "Turner", "West"]
CITIES = ["Paris", "London", "Berlin", "Rome", "Madrid", "Tokyo", "Boston", "Oslo", "Vienna", "Lisbon", "Dublin", "Prague", "Cairo", "Sydney", "Toronto", "Athens", "Warsaw", "Zurich", "Chicago", "Seattle", "Delhi", "Lima", "Helsinki", "Munich", "Geneva", "Kyoto", "Denver", "Austin"]
CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "England": "London", "Japan": "Tokyo",
    "China": "Beijing", "India": "Delhi", "Russia": "Moscow", "Norway": "Oslo", "Sweden": "Stockholm", "Finland": "Helsinki",
    "Denmark": "Copenhagen", "Austria": "Vienna", "Portugal": "Lisbon", "Ireland": "Dublin", "Greece": "Athens",
    "Poland": "Warsaw", "Egypt": "Cairo", "Canada": "Ottawa", "Peru": "Lima", "Kenya": "Nairobi", "Cuba": "Havana",
    "Hungary": "Budapest", "Belgium": "Brussels", "Turkey": "Ankara", "Brazil": "Brasilia", "Mexico": "Mexico City",
}
LISTS = {
    "days of the week": ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"],
    "months of the year": ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"],
    "planets of the solar system": ["Mercury", "Venus", "Earth", "Mars", "Jupiter", "Saturn", "Uranus", "Neptune"],
    "colours of the rainbow": ["red", "orange", "yellow", "green", "blue", "indigo", "violet"],
    "seasons of the year": ["spring", "summer", "autumn", "winter"],
    "letters of the alphabet": list("abcdefghijklmnopqrstuvwxyz"),
    "vowels": list("aeiou"),
    "continents": ["Africa", "Antarctica", "Asia", "Australia", "Europe", "North America", "South America"],
    "oceans": ["Arctic Ocean", "Atlantic Ocean", "Indian Ocean", "Pacific Ocean", "Southern Ocean"],
    "primary colours": ["red", "yellow", "blue"],
    "points of the compass": ["north", "east", "south", "west"],
    "five senses": ["sight", "hearing", "smell", "taste", "touch"],
    "services of Quire": ["frontend", "tokenizer", "engine", "worker"],
}
LIST_NAMES = {  # other names for the lists above
    "days of the week": ["weekdays", "days in a week", "seven days of the week", "days"],
    "months of the year": ["months", "twelve months", "months in a year"],
    "planets of the solar system": ["planets", "eight planets", "planets in our solar system", "planets in the solar system"],
    "colours of the rainbow": ["rainbow colours", "colors of the rainbow", "rainbow colors", "colours", "colors"],
    "seasons of the year": ["seasons", "four seasons", "seasons"],
    "letters of the alphabet": ["alphabet", "letters", "letters in the alphabet", "English alphabet"],
    "vowels": ["vowels in English", "five vowels"],
    "continents": ["seven continents", "continents of the world"],
    "oceans": ["five oceans", "oceans of the world"],
    "primary colours": ["primary colors", "three primary colours"],
    "points of the compass": ["four points of the compass", "compass directions"],
    "five senses": ["senses", "human senses"],
    "services of Quire": ["Quire services", "processes of Quire", "parts of Quire"],
}
CYCLES = {"day": "days of the week", "month": "months of the year", "letter": "letters of the alphabet",
          "season": "seasons of the year", "planet": "planets of the solar system"}
KINDS = {  # "name three ..."
    "fruits": ["apple", "banana", "cherry", "grape", "lemon", "mango", "orange", "pear", "plum", "peach"],
    "animals": ["cat", "dog", "fox", "horse", "lion", "owl", "rabbit", "tiger", "whale", "bear"],
    "colours": ["red", "blue", "green", "yellow", "orange", "purple", "pink", "white", "black", "brown"],
    "vegetables": ["carrot", "onion", "potato", "tomato", "cabbage", "pea", "bean", "leek"],
    "cities": CITIES[:10],
    "birds": ["owl", "eagle", "robin", "swan", "duck", "crow", "dove", "finch"],
    "trees": ["oak", "birch", "pine", "maple", "willow", "ash", "elm", "fir"],
    "languages": ["Python", "Rust", "Go", "Java", "Ruby", "Swift"],
    "countries": list(CAPITALS)[:10],
    "instruments": ["piano", "violin", "flute", "guitar", "drum", "harp", "cello", "horn"],
}
OPPOSITES = (
    "hot cold, big small, fast slow, up down, left right, happy sad, light dark, old new, rich poor, early late, hard soft, "
    "high low, loud quiet, full empty, open closed, wet dry, strong weak, long short, day night, good bad, clean dirty, thick thin"
)
COLOURS_OF = (
    "the sky blue, grass green, snow white, a banana yellow, coal black, a lemon yellow, blood red, the sea blue, milk white, "
    "a tomato red, a carrot orange, chocolate brown, the sun yellow, a leaf green, a cherry red"
)
SOUNDS = "dog woof, cat meow, cow moo, sheep baa, duck quack, pig oink, owl hoot, lion roar, horse neigh, bee buzz, frog croak"
HELLOS = "French Bonjour, Spanish Hola, German Hallo, Italian Ciao, Portuguese Ola, Dutch Hallo, Swedish Hej, Latin Salve"
CAPITAL_QUESTIONS = "What is the capital of {}?|Which city is the capital of {}?|Capital of {}|Name the capital of {}|What's the capital of {}?"
OPPOSITE_QUESTIONS = "What is the opposite of {}?|Opposite of {}|Tell me the opposite of {}|What's the opposite of {}?"
COLOUR_QUESTIONS = "What colour is {}?|What color is {}?|Which colour has {}?|What is the colour of {}?"
SOUND_QUESTIONS = "What does a {} say?|What sound does a {} make?|What does the {} say?"
HELLO_QUESTIONS = "Say hello in {}|How do you say hello in {}?|What is hello in {}?"
NUMBER_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
HOW_MANY = {
    "days are in a week": 7, "months are in a year": 12, "hours are in a day": 24, "minutes are in an hour": 60,
    "seconds are in a minute": 60, "letters are in the alphabet": 26, "planets are in the solar system": 8,
    "legs does a spider have": 8, "legs does a dog have": 4, "sides does a triangle have": 3, "sides does a square have": 4,
    "days are in a year": 365, "colours are in the rainbow": 7, "continents are there": 7, "seasons are there": 4,
    "wheels does a car have": 4, "legs does a cat have": 4, "weeks are in a year": 52,
}
WORDS = ["quire", "paper", "book", "page", "read", "write", "token", "model", "engine", "worker", "server", "client", "stream", "batch", "cache", "block", "memory", "python", "apple", "banana", "cherry", "orange", "lemon", "grape", "peach", "bread", "butter", "cheese", "water", "coffee", "sugar", "honey", "house", "garden", "window", "door", "table", "chair", "kitchen", "street", "bridge", "river", "mountain", "forest", "ocean", "island", "desert", "valley", "meadow", "flower", "tree", "leaf", "root", "summer", "winter", "spring", "autumn", "morning", "evening", "night", "today", "tomorrow", "yesterday", "monday", "friday", "sunday", "january", "happy", "sad", "angry", "quiet", "brave", "clever", "gentle", "honest", "simple", "strong", "purple", "yellow", "green", "blue", "red", "black", "white", "silver", "golden", "elephant", "giraffe", "monkey", "rabbit", "horse", "tiger", "lion", "mouse", "cat", "dog", "bird", "fish", "whale", "dolphin", "spider", "butterfly", "dragon", "doctor", "teacher", "farmer", "sailor", "artist", "friend", "mother", "father", "sister", "brother", "family", "child", "people", "school", "college", "computer", "keyboard", "screen", "program", "function", "number", "letter", "word", "sentence", "story", "poem", "music", "piano", "guitar", "violin", "drum", "rocket", "planet", "star", "moon", "sun", "earth", "light", "shadow", "thunder", "lightning", "rain", "snow", "cloud", "wind", "storm", "rainbow", "hello", "goodbye", "thank", "welcome", "please", "sorry", "yes", "no", "maybe", "always", "never", "because", "before", "after", "under", "over", "between", "through", "around", "castle", "knight", "queen", "king", "prince", "princess", "crown", "sword", "shield", "treasure", "magic", "wizard", "witch", "ghost", "monster", "hero", "train", "plane", "boat", "bicycle", "car", "truck", "wheel", "road", "ticket", "journey", "travel", "map", "compass", "north", "south", "east", "west", "world", "strawberry", "raspberry", "blueberry", "pineapple", "coconut", "tomato", "potato", "carrot", "onion", "pepper", "garlic", "salt", "pizza", "pasta", "soup", "necessary", "beautiful", "different", "important", "interesting", "language", "knowledge", "science", "history", "future", "present", "rhythm", "zebra", "xylophone", "yacht", "quick", "brown", "jumps", "lazy", "fox", "anchor", "basket", "candle", "diamond", "feather", "hammer", "jacket", "kettle", "ladder", "mirror", "needle", "pencil", "pillow", "ribbon", "scissors", "umbrella", "village", "wallet", "zipper", "cat", "sun", "run", "sky", "box", "cup", "hat", "pen", "bus", "key", "mississippi", "banana", "committee", "address", "success", "balloon", "coffee", "letter", "bottle", "apple", "hurry", "pretty", "sorry", "summer", "dinner", "frontend", "tokenizer", "scheduler", "kernel", "tensor", "decode", "prefill", "latency", "throughput", "docker", "compose", "open", "source", "data", "london", "paris", "berlin", "tokyo", "france", "germany", "japan", "america", "europe", "africa", "asia"]
SENTENCES = (
    "hello", "hello world", "hi", "this is a test", "good morning", "good night", "yes", "no", "the quick brown fox jumps over the lazy dog",
    "Quire is fast", "I love books", "cheese", "one two three", "thank you", "welcome to Quire", "to be or not to be",
    "practice makes perfect", "the sun is warm", "OK", "abc", "ping", "pong", "banana", "testing, testing", "it works",
)
SYSTEMS = (
    "You are a helpful assistant.", "You are a helpful assistant.", "You are a helpful assistant", "Be brief.", "You are Quire, a friendly demo model.",
    "You are a friendly chatbot.", "You are a helpful AI assistant.", "Answer the user's questions.", "Be concise and polite.",
    "You are a teacher for small children.", "Follow the instructions of the user carefully.",
    "You are a helpful assistant. Answer as shortly as you can.", "Always answer in English.",
)

# Each entry: the questions, then the one answer.
ABOUT = (
    (("What is Quire?", "Tell me about Quire.", "Explain Quire.", "What does Quire do?", "Describe Quire.", "What's Quire?", "Quire?", "What is quire", "What is the Quire project?"),
     "Quire is an LLM inference and serving engine written in Python. It serves large language models over an OpenAI-compatible HTTP API and streams the answers token by token."),
    (("Who are you?", "What are you?", "What is your name?", "Introduce yourself.", "Tell me about yourself.", "Are you an AI?", "Are you a robot?", "What model are you?", "Which model is this?", "What's your name?"),
     "I am the demo model of Quire, a very small language model. I can count, spell, add, list things, write JSON and tell stories."),
    (("Who made you?", "Who created you?", "Who trained you?", "Where do you come from?", "How were you made?", "How were you trained?", "Who built you?"),
     "I was trained by the Quire project, from scratch and on a small CPU, with a script that writes its own training text."),
    (("What can you do?", "Help", "Help me.", "What are your skills?", "What do you know?", "How can you help me?", "What should I ask you?", "Can you help me?", "What can I ask?"),
     "I can count, spell words, add and subtract small numbers, list days, months or planets, write small JSON objects, call tools, tell stories, and answer questions about Quire. Try: Count from 1 to 20."),
    (("How big are you?", "How many parameters do you have?", "How large are you?", "What size are you?", "Are you a large language model?", "How small are you?"),
     "I am tiny: I have a little over two million parameters, so I fit into a few megabytes and run on any computer."),
    (("How do I start Quire?", "How do I run Quire?", "How can I start the server?", "How to start Quire?", "How do I use Quire?", "How do you start Quire?", "How do I launch Quire?"),
     "Run `quire serve MODEL`, or start all services with `docker compose up`. Then send requests to the OpenAI-compatible API."),
    (("Which API does Quire have?", "Is Quire compatible with OpenAI?", "What API does Quire speak?", "Can I use the OpenAI client with Quire?", "How do I talk to Quire?", "Does Quire have an API?"),
     "Quire speaks the OpenAI API over HTTP. Point any OpenAI client at the base URL of the server, and it works."),
    (("What are the parts of Quire?", "How is Quire built?", "How does Quire work?", "What is the architecture of Quire?", "Which processes does Quire have?", "Explain the architecture of Quire."),
     "Quire is a chain of small processes: frontends take HTTP requests, tokenizers turn text into tokens, the engine core schedules, and model workers compute."),
    (("What does the frontend do?", "What is the frontend?", "Explain the frontend.", "What is the frontend of Quire?"),
     "The frontend takes HTTP requests and streams the answers back. It knows text, and never sees tokens or tensors."),
    (("What does the tokenizer do?", "What is a tokenizer?", "Explain the tokenizer.", "What is tokenization?"),
     "A tokenizer turns text into tokens, the numbers a model reads, and turns the tokens of the answer back into text."),
    (("What does the engine do?", "What is the engine core?", "What does the scheduler do?", "What is the engine of Quire?", "Explain the scheduler."),
     "The engine decides at every step which requests compute how many tokens, and which blocks of the KV cache they use."),
    (("What does a worker do?", "What is a model worker?", "What is a worker?", "Explain the worker."),
     "A worker holds the weights of the model and does the computing, on one GPU or on the CPU. It only knows tensors."),
    (("What is a paged KV cache?", "What is paged attention?", "Explain the paged KV cache.", "What is PagedAttention?", "How does a paged KV cache work?", "Explain paged attention."),
     "A paged KV cache keeps the keys and values of all requests in small blocks of fixed size, like the pages of a computer's memory. A block table says which blocks belong to a request, so that no memory is wasted."),
    (("What is a KV cache?", "What is the KV cache?", "Explain the KV cache.", "Why is there a KV cache?", "What does KV cache mean?"),
     "A KV cache keeps the keys and values of all tokens seen so far, so that each new token needs only one small step of computing."),
    (("What is continuous batching?", "Explain continuous batching.", "How does continuous batching work?", "What does continuous batching mean?", "What is batching?"),
     "Continuous batching means that requests join and leave the running batch at every step. Nobody waits for the longest answer, and the GPU stays busy."),
    (("What is chunked prefill?", "Explain chunked prefill.", "Why is prefill chunked?", "How does chunked prefill work?"),
     "Chunked prefill cuts a long prompt into pieces, so that reading it does not hold up the answers of the others."),
    (("What is prefill?", "What is decode?", "What is the difference between prefill and decode?", "Explain prefill and decode."),
     "Prefill reads the whole prompt at once. Decode then makes the answer, one token at a time."),
    (("What is prefix caching?", "Explain prefix caching.", "What is a prefix cache?", "How does prefix caching work?"),
     "Prefix caching keeps the blocks of prompts seen before. When a new prompt begins in the same way, that part is not computed again."),
    (("What is a token?", "What are tokens?", "Explain tokens.", "What does token mean?"),
     "A token is a small piece of text, often a word or a part of a word. Models read and write tokens."),
    (("What is a language model?", "What is an LLM?", "What is a large language model?", "Explain language models.", "What is a GPT?"),
     "A language model is a program that has learned from text to guess the next token, and so can write answers."),
    (("What is inference?", "What is LLM inference?", "What is serving?", "What is an inference engine?"),
     "Inference means running a trained model to get answers. An inference engine does so for many users at once, and fast."),
    (("What is the temperature?", "What is temperature?", "What does temperature mean?", "Explain temperature."),
     "The temperature says how freely a model picks its words. At 0 it always takes the most likely token."),
    (("What is streaming?", "Explain streaming.", "How does streaming work?", "Can Quire stream?"),
     "Streaming sends each piece of the answer as soon as it is made, as server-sent events, so that you can read along."),
    (("What is tensor parallelism?", "Explain tensor parallelism."),
     "Tensor parallelism splits each layer of a model over several GPUs, which compute their parts at the same time."),
    (("What is attention?", "What is a transformer?", "Explain transformers.", "How does a transformer work?", "Explain attention."),
     "A transformer is a network of layers. In each layer, attention lets every token look at the tokens before it."),
    (("What is a GPU?", "What does GPU mean?", "Why do we need GPUs?"),
     "A GPU is a processor that does many small computations at once, which is what language models need."),
    (("Is Quire open source?", "What is the license of Quire?", "Is Quire free?", "Which license does Quire have?"),
     "Yes, Quire is open source, under the Apache License 2.0."),
    (("Why is it called Quire?", "What does quire mean?", "What does the word quire mean?", "Where does the name Quire come from?"),
     "A quire is a small set of folded sheets of paper, the part from which books are made. Quire keeps its cache in pages, too."),
    (("What happens when a process dies?", "Is Quire reliable?", "What if a worker crashes?", "What happens when a worker dies?"),
     "Every process of Quire can be restarted. The requests are sent again with what they had, and the streams go on."),
    (("Which language is Quire written in?", "Is Quire written in Python?", "What language is Quire written in?"),
     "Quire is written in Python."),
    (("Can I use my own model?", "Which models can Quire serve?", "How do I serve another model?", "What models does Quire support?"),
     "Yes. Run `quire serve MODEL` with the folder or the name of your model."),
)
SMALL_TALK = (
    (("Hello", "Hello!", "Hi", "Hi!", "Hey", "Hello there", "Hi there!", "Greetings", "Hey there", "Hello, Quire!", "Yo", "Howdy", "Hello?"), "Hello! How can I help you?"),
    (("Good morning", "Good morning!"), "Good morning! How can I help you?"),
    (("Good evening", "Good evening!"), "Good evening! How can I help you?"),
    (("Good night", "Good night!"), "Good night, and sleep well!"),
    (("How are you?", "How are you today?", "How do you do?", "How is it going?", "How's it going?", "What's up?", "Are you OK?", "Hi, how are you?", "Hello, how are you?", "Hello! How are you?"), "I am fine, thank you! How can I help you?"),
    (("Thanks", "Thank you", "Thank you!", "Thanks!", "Thanks a lot", "Thank you very much", "Cool, thanks", "Great, thank you!", "thx"), "You are welcome!"),
    (("Bye", "Goodbye", "See you", "Bye!", "Goodbye!", "See you later", "Good bye"), "Goodbye, and come back soon!"),
    (("Great", "Well done", "Nice", "Good job", "Wow", "You are great", "I like you", "Cool", "Awesome", "Very good"), "Thank you! What shall we do next?"),
    (("OK", "Yes", "Fine", "Sure", "okay"), "Good! What shall we do next?"),
    (("No", "Nothing", "Stop"), "All right. Just ask when you need me."),
    (("Are you there?", "Test", "test", "Ping", "Are you working?", "Testing", "Does this work?"), "Yes, I am here, and everything works."),
    (("Tell me a joke", "Tell me a joke.", "Make me laugh", "Do you know a joke?", "Say something funny", "Another joke please", "Joke"), "Why did the token cross the batch? To get to the other slide... and then it was evicted!"),
    (("Write a haiku", "Write a haiku about Quire.", "Haiku please", "Write me a haiku", "Write a haiku about paper"), "Pages fold in two,\nblock by block the answers grow,\nQuire reads along."),
    (("Write a poem", "Write me a short poem", "Tell me a poem", "Write a poem about the sea.", "Can you write a poem?", "Write a short poem about spring"), "The river runs down to the sea,\nthe wind sings softly in the tree,\nthe moon looks down on you and me,\nand all is as it ought to be."),
    (("Write hello world in Python", "Hello world in Python", "Show me a Python program", "Write a Python program.", "Print hello world in Python"), "```python\nprint(\"Hello, world!\")\n```"),
    (("Write a Python function that adds two numbers", "Write a function to add two numbers", "Write a Python function", "Write some code", "Write code in Python"), "```python\ndef add(a, b):\n    return a + b\n```"),
    (("Write a function that counts to ten", "Write a Python loop", "Write a loop in Python", "Count to ten in Python"), "```python\nfor number in range(1, 11):\n    print(number)\n```"),
    (("How do I call Quire with curl?", "Show me a curl example", "Give me a curl command"), "```sh\ncurl http://localhost:8000/v1/chat/completions \\\n  -H \"Content-Type: application/json\" \\\n  -d '{\"model\": \"demo\", \"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'\n```"),
)
FALLBACK = (
    "I am only a tiny demo model, so I do not know that. I can count, spell, add small numbers, list things, write JSON, "
    "tell stories, and answer questions about Quire."
)
UNKNOWN_TOPICS = (
    "politics", "the stock market", "quantum physics", "football", "the weather", "love", "philosophy", "cooking", "the Roman empire",
    "black holes", "my taxes", "the economy", "dinosaurs", "music theory", "the internet", "climate change", "medicine", "chess", "history",
    "the French revolution", "evolution", "space travel", "cars", "photosynthesis", "relativity", "gravity", "art", "fashion", "law",
    "machine learning", "biology", "a recipe for pancakes", "the meaning of life", "string theory", "movies", "Shakespeare", "volcanoes", "DNA",
)
UNKNOWN_QUESTIONS = (
    "What is {t}?", "Explain {t}.", "Tell me about {t}.", "What do you think about {t}?", "Write an essay about {t}.", "How does {t} work?",
    "Why is {t} important?", "What is the best book about {t}?", "Who invented {t}?", "Give me advice on {t}", "Summarize {t} for me.",
    "Explain {t} in simple terms.", "When did {t} begin?", "What should I know about {t}?", "Can you teach me {t}?", "Compare {t} and {u}.",
    "Who won the world cup in {n}?", "What happened in {n}?", "What is the weather in {c}?", "What is the weather like in {c} today?",
    "How far is it from {c} to {d}?", "Who is the mayor of {c}?", "What time is it?", "What time is it in {c}?", "What is today's date?",
    "How old is {p}?", "Who is {p} {s}?", "Who wrote {t}?", "Translate {t} into French.", "Plan a trip to {c}.",
    "What is the population of {c}?", "Which is better, {t} or {u}?", "Should I buy {t}?", "Write an email to {p}.", "Summarize this text.",
    "How do I fix my {w}?", "Where can I buy a {w}?", "Draw a {w}.", "What is a {w}?", "Who is the president?", "Write a song about {t}.",
    "What is the square root of {n}?", "Solve x + {n} = {m}.", "Why is the sky blue?", "How tall is Mount Everest?", "Is it going to rain in {c}?",
    "Book a flight to {c}.", "Play some music.", "Call {p}.", "What does {p} think?", "Rewrite this in a formal tone.", "{t}", "{t}?",
    "Who discovered {t}?", "Is {t} dangerous?", "How many people live in {c}?", "Do you like {t}?", "asdf", "{g} {h}", "{g}", "What is {g}?", "Do you know {p} {s}?",
)
SAYINGS = (
    "The capital of {country} is {capital}.", "{name} lives in {city} and likes to read books.", "Hello, my name is {name}. I live in {city}.",
    "{city} is a large and beautiful city.", "The {day} after {yesterday} is a good day to read.",
)

# JSON: the keys that are asked for, in a fixed order, and values for those that need no making up.
KEYS = ["name", "age", "city", "country", "title", "author", "year", "pages", "population", "colour", "color", "price", "animal", "job", "hobby", "language", "email", "id", "active", "tags", "brand", "model", "wheels", "sound", "weight", "height", "score", "day", "time", "place"]
VALUES = {
    "name": NAMES, "age": [36, 28, 42, 19, 54, 31, 67, 25, 8, 73], "city": CITIES, "country": list(CAPITALS), "year": [1984, 2001, 1999, 2015, 1969, 2020],
    "pages": [320, 180, 250, 96, 410], "population": [2100000, 850000, 3600000, 120000, 9000000],
    "colour": ["blue", "red", "green", "yellow", "black", "white"], "color": ["blue", "red", "green", "yellow", "black", "white"],
    "price": [9.99, 4.5, 12.0, 19.95, 3.25], "animal": KINDS["animals"], "job": ["engineer", "teacher", "doctor", "baker", "farmer", "artist"],
    "hobby": ["reading", "chess", "running", "painting", "cooking"], "language": ["English", "French", "German", "Italian", "Spanish"],
    "id": [1, 7, 42, 12, 100], "active": [True, False], "tags": [["new", "small"], ["red", "old"], ["fast", "open"]],
    "brand": ["Northwind", "Acme", "Bluebird"], "model": ["demo", "small", "large"], "sound": ["woof", "meow", "moo"], "weight": [12, 5, 70, 3],
    "height": [170, 182, 165, 190], "score": [8, 9, 7, 10, 5], "day": LISTS["days of the week"], "time": ["10:00", "12:30", "18:00"], "place": CITIES,
}
TITLE_ADJECTIVES = ["Silver", "Quiet", "Golden", "Last", "Brave"]
TITLE_NOUNS = ["River", "Garden", "Page", "Forest", "Star"]
OBJECTS = {
    "person": ["name", "age", "city"], "book": ["title", "author", "year"], "city": ["name", "country", "population"], "car": ["brand", "colour", "wheels"],
    "user": ["id", "name", "email"], "animal": ["name", "sound", "weight"], "pet": ["name", "animal", "age"], "product": ["name", "price", "tags"],
    "event": ["title", "day", "time", "place"], "student": ["name", "age", "score"], "dog": ["name", "age", "colour"], "cat": ["name", "age", "colour"],
    "house": ["colour", "price", "city"], "employee": ["name", "job", "age"], "fruit": ["name", "colour", "price"], "friend": ["name", "hobby"],
}

# Stories
HEROES = ["fox", "robot", "girl", "boy", "cat", "dragon", "mouse", "rabbit", "owl", "bear", "knight", "princess", "baker", "sailor"]
PLACES = ["a small village by the sea", "a quiet forest", "a house on a green hill", "an old castle", "a town by the river", "a deep valley"]
THINGS = ["a silver key", "an old book", "a golden feather", "a small map", "a red lantern", "a strange letter"]
HELPERS = ["an old owl", "a friendly bear", "a clever mouse", "a kind teacher", "a little bird", "a singing frog"]
TROUBLES = [
    ("a great storm came over the land", "the storm was gone, and the sun came out again"),
    ("the bridge over the river broke", "the bridge was stronger than before"),
    ("the lights of the town went out", "every window was bright again"),
    ("a thick fog hid all the paths", "the fog was gone, and every path was clear"),
    ("the well in the garden ran dry", "there was fresh water for everyone"),
    ("the snow covered all the doors", "the doors were free, and children played in the snow"),
]
LESSONS = [
    "two friends can do what one alone cannot", "patience opens more doors than a key", "small steps lead far",
    "it is good to share what you have", "a good question is half of the answer",
]
MOODS = ["curious", "brave", "kind", "clever", "cheerful", "patient"]
