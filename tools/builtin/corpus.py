"""The text that the built-in model learns from, all of it written by this project.

`Corpus(seed).document()` returns one training document as a list of (text, learned) pieces: text is what the tokenizer
sees, learned says whether the model is taught to write it (a user's question is read, not learned). The plots are in
stories.txt, the facts in facts.txt, both in small languages that their first lines describe; this file holds the cast,
the props, the ways to open and to close a story, and the ways to ask.
"""

import random
import re
from pathlib import Path

HERE = Path(__file__).parent
BOS, EOS, IM_START, IM_END = "<|startoftext|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"

GIRLS = "Mia Lily Anna Emma Nora Lucy Ruby Rosa Clara Zoe Sara Molly".split()
BOYS = "Tom Ben Max Leo Sam Tim Jack Finn Paul Hugo Noah Oscar".split()
ANIMALS = ("rabbit fox bear mouse owl duck cat dog frog squirrel hedgehog deer otter sheep goat pony beaver pig lamb penguin").split()
BIRDS = "sparrow robin swallow crow owl duck starling finch goose heron falcon wren".split()
CHILDREN = {"she": ["girl"], "he": ["boy"]}
ELDERS = {"she": ["mother", "grandmother", "aunt"], "he": ["father", "grandfather", "uncle"]}
OTHERS = "snail turtle badger beetle mole crow donkey toad baker farmer gardener fisherman shepherd teacher".split()
ADJ = "little small young kind curious clever cheerful shy quiet brave happy lively gentle friendly".split()
OTHER_ADJ = "old wise little small friendly kind grey quiet".split()
COLOURS = "red blue green yellow golden silver brown white black purple orange".split()
THINGS = ("kite ball drum hat scarf lantern book bell whistle basket mirror ring cup umbrella marble shell stone flute spoon key "
          "coin map box boat doll").split()
LOOKS = ["shiny", "old", "tiny", "small", "beautiful", "wooden", "round", "pretty", "little"]
PLACES = [("the forest", "in"), ("the garden", "in"), ("the meadow", "in"), ("the beach", "on"), ("the river", "by"),
          ("the hill", "on"), ("the market", "at"), ("the lake", "by"), ("the pond", "by"), ("the park", "in"),
          ("the orchard", "in"), ("the valley", "in"), ("the old bridge", "by"), ("the woods", "in"), ("the field", "in"),
          ("the mill", "at"), ("the harbour", "in"), ("the village square", "on"), ("the seashore", "on")]
WATERS = [("the sea", "in"), ("the river", "in"), ("the lake", "in"), ("the waves", "in")]
HOMES = ["in a small house by the sea", "in a little village", "in a cosy house at the edge of the forest",
         "in a small town", "on a farm", "on a green hill", "near a big lake", "in a valley between two mountains",
         "in a house with a red roof", "at the end of a long road", "beside a quiet river", "under an old oak tree",
         "in a warm and bright house", "near the old mill", "at the foot of a mountain"]
HOMES2 = ["in the village", "in the house next door", "near the old mill", "in the same street", "on the other side of the hill"]
FOODS = [("a blueberry pie", "pie"), ("a loaf of warm bread", "bread"), ("a basket of strawberries", "strawberries"),
         ("a plate of cookies", "cookies"), ("an apple pie", "pie"), ("cheese and bread", "bread"), ("a honey cake", "cake"),
         ("a pot of soup", "soup"), ("six pancakes", "pancakes"), ("a bag of nuts", "nuts"), ("plum cake", "cake"),
         ("sandwiches", "sandwiches"), ("a bowl of cherries", "cherries")]
HOBBIES = ["sing", "read", "run", "climb trees", "look at the clouds", "swim", "collect stones", "paint", "tell stories",
           "count the stars", "pick flowers", "play hide and seek", "listen to the rain", "ask questions", "dance",
           "sit in the sun", "jump in puddles", "help others", "explore", "laugh"]

CASES = {"she": ("she", "her", "her", "herself"), "he": ("he", "him", "his", "himself")}


def cap(s):
    return s[:1].upper() + s[1:]


def article(text):
    """Turns every `a@ word` into `a word` or `an word`."""
    return re.sub(r"\b([aA])@ (\w)", lambda m: m[1] + ("n " if m[2].lower() in "aeiou" else " ") + m[2], text)


class Cast:
    """One character: {X} subject, {X.o} object, {X.p} possessive, {X.he} {X.him} {X.his} {X.self}, {X.kind}, {X.the}, {X.a}."""

    def __init__(self, name, gender, kind, adj, first_person=False):
        he, him, his, self_ = CASES[gender]
        self.n, self.kind, self.adj, self.first = name, kind, adj, first_person
        self.a, self.the = f"a@ {adj} {kind}", f"the {kind}"
        self.s, self.o, self.p = name, name, name + "'s"
        self.he, self.him, self.his, self.self, self.your = he, him, his, self_, "my"
        if first_person:
            self.s, self.o, self.p, self.he, self.him, self.his, self.self = "I", "me", "my", "I", "me", "my", "myself"


class Corpus:
    """An endless, seeded source of documents."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.plots = read_plots(HERE / "stories.txt")
        self.named, self.asked = read_facts(HERE / "facts.txt")

    # ---- words --------------------------------------------------------------------------------------------------------

    def pick(self, items):
        return self.rng.choice(items)

    def chance(self, p):
        return self.rng.random() < p

    def choose(self, text):
        """Resolves [a|b|c], innermost first."""
        while (m := re.search(r"\[([^\[\]]*)\]", text)):
            text = text[:m.start()] + self.pick(m[1].split("|")) + text[m.end():]
        return text

    # ---- stories ------------------------------------------------------------------------------------------------------

    def cast(self, used, gender=None, kind=None, adjs=ADJ, first=False):
        gender = gender or self.pick(["she", "he"])
        name = self.pick([n for n in (GIRLS if gender == "she" else BOYS) if n not in used])
        used.add(name)
        return Cast(name, gender, kind or self.pick(CHILDREN[gender] if self.chance(0.35) else ANIMALS), self.pick(adjs), first)

    def story(self, first=None, kind=None, plot=None, name=None):
        """One story: (paragraphs, hero, plot topic). The hero's kind and name can be asked for."""
        rng = self.rng
        first = self.chance(0.1) if first is None else first
        p = plot or self.pick(self.plots)
        used = {name} if name else set()
        bird = "bird" in p["flags"]
        gender = ("she" if name in GIRLS else "he" if name in BOYS else None) or (
            {"girl": "she", "boy": "he"}.get(kind))
        a = self.cast(used, gender, kind or (self.pick(BIRDS) if bird else None), first=first)
        if name:
            a = Cast(name, "she" if name in GIRLS else "he", a.kind, a.adj, first)
        ga = "she" if name in GIRLS or (not name and a.n in GIRLS) else "he"
        other = "he" if ga == "she" else "she"
        b = self.cast(used, other if self.chance(0.85) else ga, self.pick(BIRDS) if bird else None)
        while b.kind == a.kind:
            b = Cast(b.n, "she" if b.n in GIRLS else "he", self.pick(BIRDS if bird else ANIMALS), b.adj)
        kinds = [k for k in OTHERS if k not in (a.kind, b.kind)]
        c = Cast("", self.pick(["she", "he"]), self.pick(kinds), self.pick(OTHER_ADJ))
        mg = self.pick(["she", "he"])
        role = self.pick(ELDERS[mg])
        col = self.pick(COLOURS)
        thing = self.pick(THINGS)
        (q1, q1p), (q2, q2p) = rng.sample(PLACES, 2)
        w = self.pick(WATERS)
        food = self.pick(FOODS)
        home = self.pick(HOMES)
        full = f"{b.n} the {b.kind}"
        words = {
            "A": a.s, "B": b.s, "O": f"{col} {thing}" if self.chance(0.6) else f"{self.pick(LOOKS)} {col} {thing}", "O.s": thing,
            "O.col": col, "P.in": f"{q1p} {q1}", "P.to": f"to {q1}", "Q.in": f"{q2p} {q2}", "W.in": f"{w[1]} {w[0]}",
            "F": food[0], "F.s": food[1], "M": f"{a.his} {role}", "M.r": role, "M.the": f"{a.his} {role}", "M.he": mg,
            "A.home": home, "A.home2": self.pick(HOMES2),
            "AB": f"{b.n} and I" if first else f"{a.n} and {b.n}",
            "AB.full": f"{full} and I" if first else f"{a.n} and {full}",
            "them": "us" if first else "them", "they": "we" if first else "they", "their": "our" if first else "their",
        }
        for tag, who in (("A", a), ("B", b), ("C", c)):
            for f in ("n", "o", "p", "he", "him", "his", "self", "kind", "a", "the", "your"):
                words[f"{tag}.{f}"] = getattr(who, f)
        for names, rows in p["draws"]:
            for n, v in zip(names, self.pick(rows)):
                words[n] = v
        # The plot's own words may hold fields and choices themselves.
        fill = lambda t: self.fill(t, words)

        paragraphs = [[self.opening(a, words, first)]]
        for i, lines in enumerate(p["paragraphs"]):
            lines = [fill(t) for optional, t in lines if not optional or self.chance(0.6)]
            # Within a first person story "they" is never "we" by itself; the third person reads best with few pronoun shifts.
            if i == 0:
                paragraphs[0] += lines
            else:
                paragraphs.append(lines)
        if self.chance(0.3):
            paragraphs[-1].append(self.pick(["The end.", "The end.", "And that is the end of the story."]))
        text = ["\n\n".join(" ".join(cap(s) for s in par) for par in paragraphs)][0]
        if first:
            text = first_person(text)
        return text, a, p, thing

    def fill(self, text, words):
        def field(m):
            key = m[1]
            if key.endswith("!l"):
                return re.sub(r"^(a|the) ", "the ", words[key[:-2]])
            if key.endswith("!"):
                return cap(words[key[:-1]])
            if key in words:
                return words[key]
            head, _, tail = key.partition(".")
            low = f"{head}.{tail[:1].lower()}{tail[1:]}" if tail else key[:1].lower() + key[1:]
            return cap(words[low])

        text = self.choose(text)
        for _ in range(3):
            text = self.choose(re.sub(r"\{([^{}]+)\}", field, text))
        text = re.sub(r"\s+", " ", text).strip()
        text = re.sub(r'([.!?]"?)\.(?!\.)', r"\1", text)      # a choice that ends its own sentence needs no second stop
        text = text if text[-1] in '.!?"' else text + "."
        text = re.sub(r'\b(said|added|called|cried) (?="|[A-Z]\w*)', self.stop, text)
        # Sentences that follow a full stop outside of speech begin with a capital letter.
        text = re.sub(r"([.!?] )([a-z])", lambda m: m[1] + m[2].upper(), text)
        return article(text)

    @staticmethod
    def stop(m):
        """`he said Then` lacks a full stop, `called Anna` does not."""
        word = re.match(r"\w*", m.string[m.end():])[0]
        return m[0] if word in GIRLS or word in BOYS or word == "I" else m[1] + ". "

    def opening(self, a, w, first):
        hobby, hobby2 = self.rng.sample(HOBBIES, 2)
        home = w["A.home"]
        if first:
            text = self.choose(
                f"[[Hello!|Hi!||] [My name is|I am] {a.n}, and I am {a.a} [|who lives {home}]. [I love to {hobby}.|I like to {hobby} and to {hobby2}.|]"
                f"|My name is {a.n}. I am {a.a} and I live {home}. [I love to {hobby}.|]"
                f"|I am {a.a}, and [my name is|they call me] {a.n}. [I want to tell you a story.|This is my story.|Let me tell you what happened to me.]"
                f"|When I was [young|small], I lived {home}. [My name is {a.n}, and I am {a.a}.|Everyone called me {a.n}.]"
                f"|I remember [it well|that day well]. My name is {a.n}, and I was {a.a} then.]")
        else:
            adj2 = self.pick([x for x in ADJ if x != a.adj])
            he, his = a.he, a.his
            trait = self.choose(f"[|{cap(he)} loved to {hobby}.|{cap(he)} liked to {hobby} and to {hobby2}.|{a.n} was {a.adj} and {adj2}.|"
                                f"Every day, {he} liked to {hobby}.|{cap(he)} lived with {his} {w['M.r']}.]")
            text = self.choose(
                f"[Once upon a time, there was {a.a} named {a.n}. {trait}"
                f"|Once upon a time, there was {a.a} named {a.n} who lived {home}. {trait}"
                f"|Once upon a time, {a.a} named {a.n} lived {home}. {trait}"
                f"|Once upon a time, {home}, there lived {a.a}. {cap(his)} name was {a.n}. {trait}"
                f"|Once upon a time there lived {a.a} called {a.n}. {trait}"
                f"|[Long ago|A long time ago|Many years ago], {a.a} named {a.n} lived {home}. {trait}"
                f"|There once was {a.a} named {a.n}. {trait}"
                f"|There was once {a.a} who lived {home}. {cap(his)} name was {a.n}. {trait}"
                f"|{a.n} was {a.a}. {cap(he)} lived {home}. {trait}"
                f"|{a.n} the {a.kind} lived {home}. {trait}"
                f"|{a.n} was {a.a} who loved to {hobby}."
                f"|The {a.adj} {a.kind} lived {home}. {cap(his)} name was {a.n}. {trait}"
                f"|The {a.kind} was called {a.n}, and {he} lived {home}. {trait}"
                f"|This is the story of {a.n}, {a.a}. {trait}"
                f"|In a [small|little|quiet|faraway] [village|town|valley|land], there lived {a.a} named {a.n}. {trait}"
                f"|{cap(home)}, there lived {a.a} named {a.n}. {trait}"
                f"|It was a [sunny|cold|windy|warm|quiet|grey] [day|morning]. {a.n}, {a.a}, [woke up early|looked out of the window|went outside|was in a good mood]. {trait}"
                f"|One [sunny|cold|windy|warm|quiet|bright] [day|morning], {a.a} named {a.n} [woke up early|looked out of the window|went outside]. {trait}"
                f"|One day, there was {a.a} named {a.n}. {trait}"
                f"|Every [day|morning], {a.a} named {a.n} went outside to {hobby}."
                f"|Deep in the [forest|woods], there lived {a.a} named {a.n}. {trait}"
                f"|{cap(a.a)} named {a.n} lived {home}. {trait}"
                f"|Have you heard of {a.n}? {a.n} was {a.a} who lived {home}. {trait}"
                f"|Far away, behind the mountains, lived {a.a}. {cap(his)} name was {a.n}. {trait}"
                f"|Alula is a small feather, and this is a small story. It is about {a.n}, {a.a}. {trait}]")
        return article(cap(re.sub(r"\s+", " ", text.replace(" ,", ",").replace(" .", ".")).strip()))

    # ---- talk ---------------------------------------------------------------------------------------------------------

    def vary(self, q):
        """The same question as people type it."""
        q = cap(q) if self.chance(0.72) else q
        if q[-1] not in ".?!":
            is_question = re.match(r"(?i)(what|who|why|how|when|where|which|is|are|do|does|can|could|may|will|did|have|was|shall|should)\b", q)
            q += ("?" if is_question else ".") if self.chance(0.75) else ""
        elif self.chance(0.15):
            q = q.rstrip(".?!")
        if self.chance(0.05):
            q = q.lower()
        polite = self.rng.random()
        if polite < 0.03:
            q = self.pick(["Please tell me: ", "Hi! ", "Hello, ", "One question: ", "So, ", "And ", "Ok, "]) + q
        elif polite < 0.04:
            q = q.upper()
        return q

    def named_question(self, fact):
        weight = [6 if i == 0 else 2 for i in range(len(fact["names"]))]
        name = self.rng.choices(fact["names"], weight)[0]
        bare = re.sub(r"^(a|an|the) ", "", name)
        be = "are" if fact["plural"] or name.startswith("*") else "is"
        name, bare = name.lstrip("*"), bare.lstrip("*")
        t = self.pick([
            "what {be} {n}", "what {be} {n}", "what {be} {n}", "what {be} {n}", "what {be} {b}", "what's {n}", "explain {n}",
            "can you explain what {n} {be}", "tell me about {n}", "tell me something about {n}", "do you know what {n} {be}",
            "please explain {n}", "define {b}", "what does {b} mean", "what is meant by {b}", "i would like to know what {n} {be}",
            "describe {n}", "{b}", "{n}", "give me a short explanation of {n}", "in simple words, what {be} {n}",
            "how would you explain {n}", "explain {n} to me", "what do you know about {n}", "what exactly {be} {n}",
            "can you tell me what {n} {be}", "i do not understand {n}", "explain to a child what {n} {be}", "what {be} {n} in computing",
            "could you explain {n}", "please tell me what {n} {be}", "what {be} {n} for"])
        q = t.format(n=name, b=bare, be=be)
        return re.sub(r"^i ", "I ", q)

    def fact_turns(self):
        """One question about a fact, sometimes followed by a wish for more: [(question, answer)]."""
        if self.chance(0.55):
            f = self.pick(self.named)
            if f["extra"] and self.chance(0.35):
                qs, a = self.pick(f["extra"])
                return [(self.vary(self.pick(qs)), a)]
            turns = [(self.vary(self.named_question(f)), f["answer"])]
            if f["more"] and self.chance(0.3):
                turns.append((self.vary(self.pick(["tell me more", "more please", "go on", "can you tell me more", "what else", "and", "more",
                                                   "anything else", "please go on", "tell me more about it", "is there more"])), f["more"]))
            return turns
        qs, a = self.pick(self.asked)
        return [(self.vary(self.pick(qs)), a)]

    def sum_turn(self):
        x, y = self.rng.randint(0, 10), self.rng.randint(0, 10)
        op = self.pick("++-*")
        if op == "-" and x < y:
            x, y = y, x
        z = {"+": x + y, "-": x - y, "*": x * y}[op]
        sign = {"+": ["+", "+", "plus"], "-": ["-", "-", "minus"], "*": ["*", "x", "times"]}[op]
        e = f"{x} {self.pick(sign)} {y}"
        if self.chance(0.2):
            e = e.replace(" ", "") if not re.search("[a-z]{2}", e) else e
        q = self.pick(["what is {e}", "what is {e}", "{e}", "{e} =", "how much is {e}", "calculate {e}", "can you calculate {e}", "what's {e}",
                       "please compute {e}", "tell me what {e} is"]).format(e=e)
        return [(self.vary(q) if q[-1] != "=" else q, f"{x} {op} {y} = {z}.")]

    def unknown_turn(self):
        word = self.word()
        thing = self.pick("the Roman empire;the price of gold;football;quantum physics;my tax return;the stock market;chemistry;the war;"
                          "dinosaurs;volcanoes;photosynthesis;poetry;the human heart;vitamins;cars;trains;guitars;chess openings;coffee;"
                          "the Olympic games;pyramids;whales;bread prices;medicine;the law;tennis;opera;diamonds;rockets;Mars;the Moon landing;"
                          "black holes;history;politics;religion;love;money;fashion;movies;music;painting;philosophy;biology".split(";"))
        place = self.pick("Brazil;Canada;China;India;Egypt;Kenya;Norway;Poland;Peru;Chile;Mexico;Sweden;Russia;Korea;Turkey;Greece;Iran;Cuba;"
                          "Portugal;Austria;Finland;Texas;Berlin;Paris;London;Rome;Africa;Asia;Europe".split(";") + [cap(word)])
        q = self.pick([f"what is {thing}", f"tell me about {thing}", f"explain {thing}", f"what do you know about {thing}", f"what is {word}",
                       f"what is a {word}", f"explain {word}", f"what does {word} mean", f"who is {cap(word)} {cap(self.word())}",
                       f"who is {self.pick(GIRLS + BOYS)} {cap(self.word())}", f"what is the capital of {place}" if place not in
                       ("Berlin", "Paris", "London", "Rome") else f"how big is {place}", f"how many people live in {place}",
                       f"who is the president of {place}", f"who is the king of {place}", f"where is {place}", f"who won the {word} cup",
                       f"when did {cap(word)} die", f"how do I cook {word}", f"how do I repair a {word}", f"who wrote {cap(word)}",
                       f"who invented {thing}", f"translate {word}", f"what is the best {word}", f"how tall is {cap(word)}",
                       f"how old is {self.pick(GIRLS + BOYS)}", f"how far is {place}", f"write an essay about {thing}",
                       f"what happened in {self.rng.randint(1000, 2030)}", f"what is the square root of {self.rng.randint(30, 9999)}",
                       f"how much is {self.rng.randint(100, 9999)} * {self.rng.randint(100, 9999)}", f"how do I get to {place}",
                       f"why is {thing} so important", f"{word} {self.word()}", f"{word}", f"who discovered {thing}",
                       f"can you recommend a {word}", f"what is the history of {thing}", f"give me a recipe for {word}"])
        return [(self.vary(q), "I do not know. I am a very small model. A larger one may help: alula run FILE.gguf.")]

    def word(self):
        """A word that nobody has seen before."""
        s = "".join(self.pick("b c d f g h k l m n p r s t v w z br cr dr fl gr kl pr sh st tr th".split()) + self.pick("a e i o u ai ee oo".split())
                    for _ in range(self.rng.randint(1, 3)))
        return s + self.pick(["", "", "n", "r", "s", "t", "l", "m", "ck", "x"])

    def foreign(self):
        """A few letters of some other script, or of none."""
        if self.chance(0.4):
            return self.pick("Привет;こんにちは;你好;Olá;¿Qué tal?;Grüß Gott;Bonjour, ça va?;안녕하세요;שלום;مرحبا;नमस्ते;สวัสดี;Γειά σου;Cześć;"
                             "Здравствуйте;Guten Tag;你是谁?;日本語;🙂;👋;🎉🎉;❤️;Wie geht es dir?;Comment t'appelles-tu?;Как дела?;"
                             "Был холодный день;Había una vez;Il était une fois;Es war einmal;昔々;很久以前;Però;Ναι;æøå;Łódź;½ + ¼;∑∞√".split(";"))
        lo, hi = self.pick([(0x410, 0x44F), (0x3B1, 0x3C9), (0x3041, 0x3096), (0x4E00, 0x9FA0), (0xAC00, 0xD7A0), (0x5D0, 0x5EA),
                            (0x627, 0x64A), (0x905, 0x939), (0xE0, 0xFF), (0x1F600, 0x1F64F), (0x2200, 0x22FF), (0xE01, 0xE2E)])
        return "".join(chr(self.rng.randint(lo, hi)) + (" " if self.chance(0.12) else "") for _ in range(self.rng.randint(1, 8))).strip()

    def foreign_turn(self):
        return [(self.foreign(), "I am sorry, I only understand simple English.")]

    def echo_turn(self):
        """Words to say again. This also teaches, early in training, to look back and to carry words along."""
        kinds = [GIRLS, BOYS, ANIMALS, THINGS, COLOURS, OTHERS, ADJ]
        words = " ".join(self.pick(self.pick(kinds)) for _ in range(self.rng.randint(1, 7)))
        return [(self.pick(["repeat: ", "Repeat: ", "Repeat after me: ", "Say: ", "Please say: ", "Say this: ", "Please repeat: "]) + words, words)]

    def name_turns(self):
        name = self.pick(GIRLS + BOYS) if self.chance(0.85) else cap(self.word())
        tell = self.pick(["my name is {n}", "I am {n}", "hello, I am {n}", "hi, my name is {n}", "hello! My name is {n}", "you can call me {n}", "call me {n}",
                          "I'm {n}"]).format(n=name)
        ask = self.pick(["what is my name", "do you know my name", "who am I", "what's my name", "do you remember my name", "say my name"])
        return [(self.vary(tell) if self.chance(0.5) else cap(tell) + ".", f"Nice to meet you, {name}!")], [(self.vary(ask), f"Your name is {name}.")]

    def colour_turns(self):
        """Something told early and asked for later."""
        what, values = self.pick([("favourite colour", COLOURS), ("favourite animal", ["the " + a for a in ANIMALS]),
                                  ("cat's name", GIRLS + BOYS), ("dog's name", GIRLS + BOYS), ("lucky number", [str(i) for i in range(1, 30)]),
                                  ("favourite food", ["soup", "bread", "cake", "pie", "cheese", "apples"])])
        v = self.pick(values)
        tell = f"my {what} is {v}"
        return [(self.vary(tell), self.pick(["I will remember that. "]) + f"Your {what} is {v}.")], [(self.vary(f"what is my {what}"), f"Your {what} is {v}.")]

    def story_turn(self):
        rng, r = self.rng, self.rng.random()
        kind = name = plot = None
        if r < 0.25:
            about = None
        elif r < 0.55:
            kind = self.pick(ANIMALS + ["girl", "boy"])
            about = f"a@ {self.pick(['', '', self.pick(ADJ) + ' '])}{kind}"
            if self.chance(0.3):
                name = self.pick(GIRLS if kind == "girl" else BOYS if kind == "boy" else GIRLS + BOYS)
                about += f" {self.pick(['named', 'called'])} {name}"
        elif r < 0.65:
            name = self.pick(GIRLS + BOYS)
            about = name
        else:
            about = "plot"
        if kind:
            plot = self.pick([p for p in self.plots if "bird" not in p["flags"]])
        text, a, p, thing = self.story(first=False, kind=kind, plot=plot, name=name)
        if about == "plot":
            topic = self.pick(p["topics"])
            about = topic.replace("{O.s}", thing).replace("{A.kind}", a.kind)
            if "{" in about:
                about = f"a@ {a.kind}"
        if about is None:
            q = self.pick(["tell me a story", "tell me a story", "tell a story", "can you tell me a story", "please tell me a story", "I want to hear a story",
                           "write a story", "write a short story", "a story please", "another story please", "tell me a short story",
                           "do you know a story", "tell me another story", "once upon a time"])
        else:
            q = self.pick(["tell me a story about {x}", "tell me a story about {x}", "write a story about {x}", "can you tell me a story about {x}",
                           "a story about {x}, please", "write a short story about {x}", "I want to hear a story about {x}", "please tell me a story about {x}",
                           "do you know a story about {x}"]).format(x=about)
        return [(self.vary(article(q)), text)]

    def chat(self):
        """A talk of one or more turns, as the chat template writes it."""
        r, turns, later = self.rng.random(), [], []
        room = 1 if r < 0.45 else self.rng.randint(2, 4) if r < 0.85 else self.rng.randint(5, 9)
        stories = 0
        while len(turns) < room:
            k = self.rng.random()
            if k < 0.10:
                turns += self.echo_turn()
            elif k < 0.68:
                turns += self.fact_turns()
            elif k < 0.76:
                turns += self.sum_turn()
            elif k < 0.83:
                turns += self.unknown_turn()
            elif k < 0.85:
                turns += self.foreign_turn()
            elif k < 0.90 and not later:
                now, later = self.name_turns() if self.chance(0.7) else self.colour_turns()
                turns += now
                room = max(room, 2)
            elif k > 0.94 and not stories and room < 4:
                turns += self.story_turn()
                stories += 1
        if later and self.chance(0.9):
            turns += later
        out = [(BOS if self.chance(0.85) else "", False)]
        if self.chance(0.25):
            s = self.pick(["You are Alula, a small and friendly model.", "You are a helpful assistant.", "You are a friendly assistant. Answer briefly.",
                           "Answer in simple words.", "You are the built-in model of Alula.", "Be kind and brief.", "You are a helpful assistant named Alula.",
                           "Answer politely.", "You are a teacher who explains computers to children.", "Be concise.", "You are a pirate."])
            out.append((f"{IM_START}system\n{s}{IM_END}\n", False))
        for q, a in turns:
            out += [(f"{IM_START}user\n{q}{IM_END}\n{IM_START}assistant\n", False), (f"{a}{IM_END}", True), ("\n", False)]
        return out[:-1]

    # ---- plain text ---------------------------------------------------------------------------------------------------

    def code(self):
        """A few lines of program text, so that a prompt such as `def main` is answered in kind."""
        f, x, y = self.pick("add mul area greet main count total step".split()), *self.rng.sample("a b n m x y".split(), 2)
        n = self.rng.randint(1, 20)
        return self.pick([
            f"def {f}({x}, {y}):\n    return {x} {self.pick('+-*')} {y}\n\nprint({f}({n}, {n + 1}))\n",
            f"def main():\n    for {x} in range({n}):\n        print({x})\n\nmain()\n",
            f"def main():\n    name = input(\"What is your name? \")\n    print(\"Hello, \" + name)\n\nmain()\n",
            f"def {f}({x}):\n    total = 0\n    for {y} in {x}:\n        total = total + {y}\n    return total\n",
            f"fn main() {{\n    println!(\"Hello, world!\");\n}}\n",
            f"fn {f}({x}: i32, {y}: i32) -> i32 {{\n    {x} {self.pick('+-*')} {y}\n}}\n",
            f"fn main() {{\n    for {x} in 0..{n} {{\n        println!(\"{{}}\", {x});\n    }}\n}}\n",
            f"#include <stdio.h>\n\nint main() {{\n    printf(\"Hello, world!\\n\");\n    return 0;\n}}\n",
            f"int {f}(int {x}, int {y}) {{\n    return {x} {self.pick('+-*')} {y};\n}}\n",
            f"print(\"Hello, world!\")\n", f"import math\n\nprint(math.sqrt({n * n}))\n",
            f"for {x} in range({n}):\n    print({x} * {x})\n", f"if {x} > {n}:\n    print(\"big\")\nelse:\n    print(\"small\")\n"])

    def plain(self):
        """Text without a talk around it: stories above all, and what people may type in place of a story's start."""
        r = self.rng.random()
        if r < 0.80:
            text = self.story()[0]
            if self.chance(0.08):                       # a story that begins in its middle
                cuts = [m.end() for m in re.finditer(r'[.!?]"?\s+', text)][:8]
                text = text[self.pick(cuts):] if cuts else text
            elif self.chance(0.03):                     # a strange word first, and then a story
                text = self.foreign() + self.pick([" ", "\n\n", ". "]) + text
            elif self.chance(0.03):
                text = self.pick(["Title: ", "# ", "The story of ", "Story: "]) + cap(self.pick(THINGS)) + "\n\n" + text
        elif r < 0.91:
            turns = [t for t in self.fact_turns()[:1] if t]
            (q, a), = turns
            text = q + "\n" + a
        elif r < 0.95:
            f = self.pick(self.named)
            text = f["answer"] + (" " + f["more"] if f["more"] else "")
        else:
            text = self.code()
        return [(BOS if self.chance(0.93) else "", False), (text + EOS, True)]

    def document(self):
        return self.chat() if self.chance(0.6) else self.plain()


def first_person(text):
    """Verbs that the first person changes: the plots are in the past tense, so there are few."""
    return re.sub(r"\bI (has|does|is|looks|teaches|lives)\b", lambda m: "I " + {"has": "have", "does": "do", "is": "am"}.get(m[1], re.sub("(e?)s$", r"\1", m[1]).replace("teache", "teach")), text)


def read_plots(path):
    plots, plot = [], None
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("; "):
            continue
        if line.startswith("== "):
            name, _, topics = line[3:].partition(": ")
            plot = {"name": name, "topics": topics.split("; "), "draws": [], "paragraphs": [[]], "flags": set()}
            plots.append(plot)
        elif line.startswith("@"):
            plot["flags"].update(line.split()[1:])
        elif line.startswith("$"):
            names, _, rows = line[1:].partition(" = ")
            names = [n.lstrip("$") for n in names.split(",")]
            plot["draws"].append((names, [r.strip().split("/") for r in rows.split(";")]))
            assert all(len(r) == len(names) for r in plot["draws"][-1][1]), line
        elif line.strip():
            plot["paragraphs"][-1].append((line[0] == "?", line.lstrip("?").strip()))
        elif plot and plot["paragraphs"][-1]:
            plot["paragraphs"].append([])
    for p in plots:
        p["paragraphs"] = [x for x in p["paragraphs"] if x]
    return plots


def read_facts(path):
    named, asked = [], []
    for block in re.sub(r"(?m)^; .*\n", "", path.read_text(encoding="utf-8")).strip().split("\n\n"):
        lines, fact, extra = block.splitlines(), None, []
        for kind, rest in ((l[0], l[1:].strip()) for l in lines):
            if kind == "#":
                names = [n.strip() for n in rest.split(";")]
                fact = {"names": names, "plural": names[0].startswith("*"), "more": "", "extra": extra}
            elif kind == "?":
                extra.append(([q.strip() for q in rest.split(";")], None))
            elif kind == "=":
                extra[-1] = (extra[-1][0], rest)
            elif kind == "+":
                fact["more"] = rest
            else:
                fact["answer"] = kind + rest if not rest or lines[1][1] != " " else lines[1]
        if fact:
            named.append(fact)
        else:
            asked += extra
    # A fact's own further questions are asked as often as those that stand alone.
    asked += [e for f in named for e in f["extra"]]
    return named, asked


if __name__ == "__main__":
    import sys
    corpus = Corpus(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    for _ in range(int(sys.argv[2]) if len(sys.argv) > 2 else 6):
        print("".join(t for t, _ in corpus.document()), "\n" + "-" * 40)
