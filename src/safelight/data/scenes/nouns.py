"""What the 709 icons are called in a sentence: whole nouns, right articles, right plurals.

The keys are the concept names of emojibase (MIT). A name is kept as it is unless it reads badly with an article or a
number in front: what comes in heaps or pairs gets its measure ("a pair of scissors", "three slices of pizza"), a sport gets
its thing ("a tennis racket"). A second phrase is an everyday synonym, drawn in a quarter of the captions.
"""

from __future__ import annotations

from typing import NamedTuple

# Kept word for word (709 = these + the keys of PHRASES + the keys of COLOURED).
PLAIN = (
    "Christmas tree;Japanese castle;Tokyo tower;abacus;accordion;aerial tramway;alembic;ambulance;"
    "american football;amphora;anchor;ant;auto rickshaw;avocado;axe;baby bottle;backpack;badger;bagel;"
    "balance scale;balloon;banana;banjo;bank;bar chart;barber pole;baseball;basket;basketball;bat;bathtub;"
    "battery;bear;beaver;bed;beer mug;beetle;bell;bell pepper;bellhop bell;bento box;bicycle;bikini;bird;"
    "birthday cake;bison;black bird;black cat;boar;bomb;bookmark;boomerang;boxing glove;brick;briefcase;"
    "broken chain;broom;brown mushroom;bucket;bullet train;burrito;bus;bus stop;butterfly;cactus;calendar;"
    "camel;camera;candle;candy;canoe;card index;carousel horse;carp streamer;carrot;castle;cat;cat face;"
    "chair;cherry blossom;chess pawn;chestnut;chicken;chipmunk;chocolate bar;church;cigarette;circus tent;"
    "cityscape;clamp;clapper board;classical building;clipboard;closed book;closed umbrella;cloud;clutch bag;"
    "coat;cockroach;cocktail glass;coconut;coffin;coin;comet;compass;computer mouse;confetti ball;"
    "convenience store;cookie;coral;cow;cow face;crab;crayon;credit card;crescent moon;cricket;crocodile;"
    "croissant;crown;crutch;crystal ball;cucumber;cupcake;curling stone;cyclone;dagger;deciduous tree;deer;"
    "delivery truck;department store;derelict house;desert;desert island;desktop computer;diving mask;diya lamp;"
    "dodo;dog;dog face;dollar banknote;dolphin;donkey;door;dove;dragon;dragon face;dress;drum;duck;"
    "dumpling;eagle;egg;eggplant;electric plug;elephant;elevator;empty nest;envelope;euro banknote;"
    "evergreen tree;factory;falafel;fallen leaf;fax machine;feather;ferris wheel;ferry;file cabinet;"
    "file folder;film projector;fire extinguisher;firecracker;fish;flamingo;flashlight;flat shoe;flatbread;"
    "floppy disk;flute;fly;fortune cookie;fountain;fountain pen;fox;framed picture;fried shrimp;frog;"
    "full moon;funeral urn;game die;gear;gem stone;ginger root;giraffe;glowing star;goal net;goat;goose;"
    "gorilla;graduation cap;guide dog;guitar;hair pick;hamburger;hammer;hamsa;hamster;handbag;hatching chick;"
    "hedgehog;helicopter;herb;hibiscus;hiking boot;honey pot;hook;horse;horse face;hospital;hot dog;hotel;"
    "house;hut;hyacinth;ice skate;inbox tray;incoming envelope;jar;jellyfish;joystick;kaaba;kangaroo;key;"
    "keyboard;kick scooter;kimono;kitchen knife;kite;kiwi fruit;knot;koala;lab coat;label;ladder;laptop;"
    "ledger;lemon;leopard;level slider;light bulb;lime;lion;lipstick;lizard;llama;lobster;lollipop;"
    "long drum;lotion bottle;lotus;loudspeaker;love hotel;low battery;magic wand;magnet;mammoth;mango;"
    "maple leaf;megaphone;melon;memo;microbe;microphone;microscope;military helmet;military medal;minibus;"
    "mirror;money bag;monkey;monkey face;monorail;moon cake;moose;mosque;mosquito;motor boat;motor scooter;"
    "motorcycle;motorized wheelchair;motorway;mountain;mountain cableway;mountain railway;mouse;mouse face;"
    "mouse trap;movie camera;mushroom;musical keyboard;musical note;musical score;muted speaker;national park;"
    "nazar amulet;new moon;newspaper;notebook;octopus;office building;oil drum;old key;olive;oncoming bus;"
    "oncoming taxi;onion;open book;orangutan;otter;outbox tray;owl;ox;oyster;package;pager;paintbrush;"
    "palm tree;panda;paperclip;parachute;parrot;party popper;passenger ship;pea pod;peach;peacock;pear;pen;"
    "pencil;penguin;petri dish;phoenix;pickup truck;pie;pig;pig face;pig nose;pill;pine decoration;pineapple;"
    "piñata;placard;playground slide;plunger;polar bear;police car;poodle;post office;postal horn;postbox;"
    "potato;potted plant;pound banknote;pretzel;printer;purse;pushpin;puzzle piece;rabbit;rabbit face;raccoon;"
    "racing car;radio;railway car;railway track;rainbow;ram;rat;razor;receipt;reminder ribbon;ribbon;"
    "rice ball;rice cracker;ring;ringed planet;rock;rocket;roller coaster;roller skate;rooster;rose;rosette;"
    "round pushpin;running shirt;safety pin;safety vest;sailboat;sandwich;sari;satellite;sauropod;saxophone;"
    "scarf;school;scorpion;screwdriver;scroll;seal;seat;seedling;service dog;sewing needle;shamrock;shark;"
    "shield;ship;shooting star;shopping cart;shower;shrimp;skateboard;skunk;sled;slot machine;sloth;snail;"
    "snake;snowflake;snowman;soccer ball;softball;sparkler;speedboat;spider;spider web;spiral calendar;"
    "spiral notepad;spiral shell;sponge;spoon;sports medal;spouting whale;squid;stadium;star;steaming bowl;"
    "stethoscope;stop sign;straight ruler;strawberry;studio microphone;stuffed flatbread;sun;sunflower;sunrise;"
    "sunset;suspension railway;synagogue;syringe;taco;takeout box;tamale;tanabata tree;taxi;teapot;teddy bear;"
    "telephone;telephone receiver;telescope;tent;test tube;thermometer;ticket;tiger;tiger face;toilet;tomato;"
    "toolbox;toothbrush;top hat;tornado;trackball;tractor;train;tram;tram car;triangular ruler;trolleybus;"
    "trophy;tropical drink;tropical fish;trumpet;tulip;turkey;turtle;umbrella;unicorn;video camera;"
    "videocassette;violin;volcano;volleyball;waffle;wastebasket;water buffalo;water pistol;whale;wheel;"
    "white cane;white flower;wilted flower;wind chime;wind face;window;wing;wolf;world map;worm;wrench;"
    "yen banknote;yo-yo;zebra"
)

# concept: phrase, and after a bar a synonym.
PHRASES: dict[str, str] = {
    "Japanese dolls": "pair of Japanese dolls",
    "T-Rex": "T-Rex|tyrannosaurus",
    "adhesive bandage": "adhesive bandage|bandage",
    "admission tickets": "admission ticket",
    "airplane": "airplane|plane",
    "airplane arrival": "landing airplane",
    "airplane departure": "departing airplane",
    "articulated lorry": "articulated lorry|semi truck",
    "artist palette": "artist palette|paint palette",
    "automobile": "car|automobile",
    "baby chick": "baby chick|chick",
    "bacon": "pair of bacon strips",
    "badminton": "badminton racket",
    "baguette bread": "baguette",
    "ballet shoes": "pair of ballet shoes",
    "beans": "handful of beans",
    "beverage box": "juice box|beverage box",
    "billed cap": "cap|baseball cap",
    "black nib": "pen nib",
    "blossom": "blossom|flower",
    "blowfish": "blowfish|pufferfish",
    "blueberries": "bunch of blueberries",
    "bookmark tabs": "page with bookmark tabs",
    "books": "stack of books",
    "bouquet": "bouquet of flowers|bouquet",
    "bowling": "bowling ball",
    "bread": "loaf of bread",
    "briefs": "pair of briefs",
    "broccoli": "head of broccoli",
    "bubble tea": "cup of bubble tea",
    "bubbles": "cluster of bubbles",
    "bug": "caterpillar|bug",
    "building construction": "construction site",
    "bullseye": "bullseye|dartboard",
    "butter": "stick of butter",
    "camping": "campsite",
    "canned food": "can of food|tin can",
    "carpentry saw": "saw|hand saw",
    "chains": "pair of chains",
    "chart decreasing": "falling chart",
    "chart increasing": "rising chart",
    "cheese wedge": "wedge of cheese|cheese wedge",
    "cherries": "pair of cherries",
    "chopsticks": "pair of chopsticks",
    "clinking glasses": "pair of clinking glasses",
    "club suit": "club symbol",
    "computer disk": "computer disk|minidisc",
    "construction": "construction barrier",
    "control knobs": "set of control knobs",
    "cooked rice": "bowl of rice",
    "cooking": "frying pan",
    "cricket game": "cricket bat",
    "crossed swords": "pair of crossed swords",
    "curry rice": "plate of curry",
    "custard": "custard pudding",
    "dango": "dango skewer",
    "diamond suit": "diamond symbol",
    "dna": "DNA helix",
    "doughnut": "doughnut|donut",
    "droplet": "droplet|water drop",
    "dvd": "DVD",
    "e-mail": "e-mail envelope",
    "ewe": "sheep|ewe",
    "field hockey": "field hockey stick",
    "film frames": "strip of film",
    "fire": "fire|flame",
    "fire engine": "fire engine|fire truck",
    "fireworks": "burst of fireworks",
    "fishing pole": "fishing pole|fishing rod",
    "flying disc": "flying disc|frisbee",
    "flying saucer": "flying saucer|UFO",
    "fog": "bank of fog",
    "foggy": "foggy day",
    "fondue": "pot of fondue",
    "french fries": "box of french fries",
    "fuel pump": "fuel pump|gas pump",
    "garlic": "head of garlic|garlic bulb",
    "glasses": "pair of glasses",
    "gloves": "pair of gloves",
    "goggles": "pair of goggles",
    "grapes": "bunch of grapes",
    "green salad": "bowl of salad",
    "headphone": "pair of headphones",
    "headstone": "headstone|gravestone",
    "heart suit": "heart|heart symbol",
    "high voltage": "lightning bolt",
    "hindu temple": "Hindu temple",
    "hippopotamus": "hippopotamus|hippo",
    "honeybee": "honeybee|bee",
    "hot beverage": "cup of coffee|hot beverage",
    "hot pepper": "chili pepper|hot pepper",
    "hot springs": "hot spring",
    "houses": "row of houses",
    "ice": "ice cube",
    "ice cream": "bowl of ice cream",
    "ice hockey": "ice hockey stick",
    "identification card": "identity card",
    "jeans": "pair of jeans",
    "joker": "joker card",
    "lacrosse": "lacrosse stick",
    "lady beetle": "lady beetle|ladybug",
    "leafy green": "leafy green|lettuce leaf",
    "light rail": "light rail train",
    "link": "chain link",
    "linked paperclips": "pair of linked paperclips",
    "locked": "closed padlock|lock",
    "locomotive": "locomotive|steam train",
    "luggage": "suitcase|piece of luggage",
    "man’s shoe": "man's shoe",
    "manual wheelchair": "wheelchair|manual wheelchair",
    "maracas": "pair of maracas",
    "mate": "cup of mate",
    "metro": "metro train",
    "milky way": "starry sky",
    "mirror ball": "mirror ball|disco ball",
    "moai": "moai statue",
    "mobile phone": "mobile phone|smartphone",
    "mount fuji": "Mount Fuji",
    "musical notes": "group of musical notes",
    "necktie": "necktie|tie",
    "nesting dolls": "nesting doll",
    "oden": "oden skewer",
    "oncoming automobile": "oncoming car|oncoming automobile",
    "optical disk": "compact disc|CD",
    "pancakes": "stack of pancakes",
    "paw prints": "pair of paw prints",
    "peanuts": "pair of peanuts",
    "performing arts": "pair of theater masks",
    "pick": "pickaxe",
    "ping pong": "ping pong paddle",
    "pizza": "slice of pizza|pizza",
    "popcorn": "box of popcorn",
    "poultry leg": "chicken leg|poultry leg",
    "pouring liquid": "pouring glass",
    "prayer beads": "string of prayer beads",
    "rhinoceros": "rhinoceros|rhino",
    "ring buoy": "ring buoy|life buoy",
    "rugby football": "rugby ball",
    "running shoe": "running shoe|sneaker",
    "sake": "bottle of sake",
    "salt": "salt shaker",
    "satellite antenna": "satellite dish|satellite antenna",
    "scissors": "pair of scissors",
    "shaved ice": "bowl of shaved ice",
    "shinto shrine": "Shinto shrine",
    "shopping bags": "pair of shopping bags",
    "shortcake": "slice of shortcake|slice of cake",
    "shorts": "pair of shorts",
    "skis": "ski boot",
    "small airplane": "propeller plane",  # "a small airplane" must mean the size
    "soap": "bar of soap",
    "socks": "pair of socks",
    "spade suit": "spade symbol",
    "spaghetti": "plate of spaghetti",
    "sparkles": "group of sparkles",
    "station": "train station",
    "sunglasses": "pair of sunglasses",
    "sushi": "piece of sushi",
    "t-shirt": "T-shirt|shirt",
    "tangerine": "orange|tangerine",
    "television": "television|TV",
    "tennis": "tennis racket",
    "thong sandal": "flip-flop|thong sandal",
    "thread": "spool of thread",
    "tumbler glass": "glass of whiskey|tumbler glass",
    "unlocked": "open padlock",
    "video game": "game controller|gamepad",
    "water wave": "ocean wave",
    "watermelon": "slice of watermelon|watermelon",
    "wedding": "wedding chapel",
    "wine glass": "glass of wine|wine glass",
    "woman’s boot": "woman's boot",
    "woman’s clothes": "blouse",
    "woman’s hat": "woman's hat",
    "woman’s sandal": "woman's sandal",
    "wood": "log|piece of wood",
    "wrapped gift": "gift|present",
    "x-ray": "X-ray",
    "yarn": "ball of yarn",
}

# Named with their colour: recoloured, they lose it ("a blue apple").
COLOURED: dict[str, tuple[str, str]] = {
    "red apple": ("apple", "red"),
    "green apple": ("apple", "green"),
    "red envelope": ("envelope", "red"),
    "blue book": ("book", "blue"),
    "green book": ("book", "green"),
    "orange book": ("book", "orange"),
}
# Recoloured, these are called otherwise: "a blue orange" would be two colours.
BASES: dict[str, str] = {"tangerine": "tangerine"}
# Named by black, white, brown or a colour that is the point of them: never recoloured.
FIXED = frozenset({"black bird", "black cat", "brown mushroom", "white cane", "white flower", "black nib", "rainbow"})
PROPER = frozenset({"Mount Fuji"})

IRREGULAR: dict[str, str] = {
    "bison": "bison", "blowfish": "blowfish", "cactus": "cacti", "cow": "cows", "deer": "deer", "die": "dice", "disc": "discs",
    "fish": "fish", "fruit": "fruits", "goose": "geese", "jellyfish": "jellyfish", "knife": "knives", "leaf": "leaves",
    "loaf": "loaves", "mango": "mangoes", "moose": "moose", "mosquito": "mosquitoes", "mouse": "mice", "ox": "oxen",
    "potato": "potatoes", "pufferfish": "pufferfish", "scarf": "scarves", "sheep": "sheep", "shrimp": "shrimp",
    "snowman": "snowmen", "squid": "squid", "tomato": "tomatoes", "tornado": "tornadoes", "volcano": "volcanoes",
    "buffalo": "buffaloes", "wolf": "wolves", "man's": "men's", "woman's": "women's",
}  # fmt: skip
# Written with a vowel but spoken with a consonant, and the other way round.
A = ("uni", "eu", "ewe", "UFO", "one")
AN = ("X-", "hour", "heir", "honest")


class Noun(NamedTuple):
    """How one concept is said. `phrase` and `alias` (the same where there is no synonym) are singular without an article;
    `base` is what it is called when a colour word stands before it."""

    concept: str
    phrase: str
    alias: str
    base: str
    colour: str | None  # the colour in its own name
    recolour: bool  # may be recoloured at all
    countable: bool


def article(phrase: str) -> str:
    """The indefinite article by sound: a unicorn, an orange, an X-ray, a euro banknote."""
    if phrase.startswith(A):
        return "a"
    if phrase.startswith(AN):
        return "an"
    return "an" if phrase[0].lower() in "aeiou" else "a"


def indefinite(phrase: str) -> str:
    """`phrase` with its article; a proper name has none."""
    return phrase if phrase in PROPER else f"{article(phrase)} {phrase}"


def plural(phrase: str) -> str:
    """The plural of a whole noun phrase: its head is the last word, or the word before "of" or "with"."""
    for link in (" of ", " with "):
        if link in phrase:
            head, rest = phrase.split(link, 1)
            return plural(head) + link + rest
    words = phrase.split(" ")
    words[:-1] = [IRREGULAR[word] if word.endswith("'s") else word for word in words[:-1]]
    words[-1] = _plural(words[-1])
    return " ".join(words)


def _plural(word: str) -> str:
    if word in IRREGULAR:
        return IRREGULAR[word]
    if word.endswith("y") and word[-2] not in "aeiou-":
        return word[:-1] + "ies"
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    return word + "s"


def nouns() -> dict[str, Noun]:
    """Every concept that makes a good scene, by its name, in alphabetical order: 709 of them."""
    table: dict[str, Noun] = {}
    said = {name: name for name in PLAIN.split(";")} | PHRASES | {name: name for name in COLOURED}
    for concept in sorted(said):
        phrase, _, alias = said[concept].partition("|")
        base, colour = COLOURED.get(concept, (BASES.get(concept, phrase), None))
        recolour = concept not in FIXED
        table[concept] = Noun(concept, phrase, alias or phrase, base, colour, recolour, phrase not in PROPER)
    return table
