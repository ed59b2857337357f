"""The words that the rules of `lint` know, by the part of a picture that they speak of. Lower case; phrases parted by semicolons."""

from __future__ import annotations

from typing import Final

SUBJECT, ENVIRONMENT, POSE, LIGHT, CAMERA, STYLE = range(6)
PARTS: Final = ("subject", "environment", "pose", "light", "camera", "style")


def listed(text: str) -> tuple[str, ...]:
    """The phrases of a list."""
    return tuple(phrase.strip() for phrase in text.replace("\n", " ").split(";") if phrase.strip())


_ENVIRONMENT = """
background; white background; plain background; blurred background; backdrop; scenery; landscape setting; setting; indoors;
outdoors; indoor; outdoor; interior; exterior; room; living room; bedroom; bathroom; kitchen; kitchen interior; office; studio;
classroom; library; cafe; restaurant; bar; church; temple interior; museum; hospital; garage; workshop; warehouse; factory; hallway;
corridor; street; city street; city; cityscape; town; village; downtown; alley; rooftop; skyline; bridge view; park; garden;
playground; backyard; farm; barn; field; meadow; grassland; prairie; forest; woods; jungle; rainforest; swamp; desert; dunes; beach;
coast; seaside; shore; ocean; sea; lake; river; riverbank; waterfall; pond; underwater; island; mountain; mountains; mountain range;
hills; hillside; valley; canyon; cliff; cave; volcano landscape; sky; blue sky; cloudy sky; starry sky; clouds; outer space; space;
galaxy; nebula; moon surface; tundra; snowfield; glacier; arctic; countryside; vineyard; orchard; harbor; harbour; port; airport;
train station; subway; highway; road; crossroads; stadium; arena; stage; market; shop; shopping mall; ruins; castle interior;
courtyard; balcony; terrace; pool; poolside; gym; laboratory; spaceship interior; cockpit; battlefield; graveyard; rain; heavy rain;
snow; falling snow; snowing; raining; fog; mist; storm; stormy weather; thunderstorm; sandstorm; blizzard; spring; summer; autumn;
fall foliage; winter; winter scene; autumn leaves; cherry blossoms
"""

_POSE = """
standing; sitting; seated; kneeling; crouching; squatting; lying; lying down; reclining; leaning; running; walking; jogging; jumping;
leaping; flying; swimming; diving; dancing; fighting; sleeping; resting; waving; pointing; reading; writing; eating; drinking; singing;
laughing; smiling; grinning; crying; shouting; frowning; winking; looking at viewer; looking at the viewer; looking at camera;
looking at the camera; looking away; looking up; looking down; looking back; looking over shoulder; looking to the side; arms crossed;
crossed arms; arms raised; arms up; hands up; hands on hips; hand on hip; hands in pockets; legs crossed; crossed legs; cross legged;
on one leg; on tiptoe; dynamic pose; action pose; heroic pose; fighting stance; stance; t pose; relaxed pose; pose; posing; mid air;
midair; in motion; in profile; profile view; side view pose; facing left; facing right; facing viewer; facing away; back turned;
head tilt; head tilted; eyes closed; closed eyes; open mouth; mouth open; serious expression; calm expression; angry expression;
sad expression; happy expression; neutral expression; expression; gesture; curled up; stretched out; upside down
"""

_LIGHT = """
light; lighting; lit; soft light; hard light; soft lighting; hard lighting; harsh light; harsh lighting; diffuse light; diffused light;
natural light; natural lighting; ambient light; studio light; studio lighting; studio lights; dramatic lighting; dramatic light;
cinematic lighting; volumetric lighting; volumetric light; god rays; light rays; sun rays; sunbeams; rim light; rim lighting; back light;
backlight; backlit; backlighting; side light; side lighting; sidelit; top light; key light; fill light; three point lighting;
rembrandt lighting; butterfly lighting; split lighting; low key; low key lighting; high key; high key lighting; chiaroscuro; golden hour;
blue hour; magic hour; sunlight; sunlit; direct sunlight; dappled sunlight; dappled light; daylight; day; daytime; midday; noon; morning;
early morning; morning light; evening; evening light; afternoon; afternoon light; dawn; dusk; twilight; sunrise; sunset; sundown; night;
nighttime; night time; midnight; moonlight; moonlit; starlight; candlelight; candlelit; firelight; torchlight; lamplight; neon;
neon light; neon lights; neon lighting; neon glow; glow; glowing; warm light; warm lighting; cold light; cool light; cool lighting;
overcast; overcast light; overcast sky; sunny; sunny day; cloudy; cloudy day; rainy; rainy day; bright; bright light; dim; dim light;
dimly lit; dark; darkness; shadows; soft shadows; long shadows; hard shadows; deep shadows; high contrast lighting; caustics;
lens flare; sparkles of light; bloom; global illumination; ray tracing; subsurface scattering; bioluminescence; spotlight; strobe light;
flash photography; flash
"""

_CAMERA = """
camera; shot; close up; closeup; close up shot; extreme close up; macro; macro shot; medium shot; medium close up; cowboy shot; full shot;
full body; full body shot; full length; full length shot; upper body; half body; bust shot; head shot; headshot; waist up; portrait shot;
wide shot; extreme wide shot; long shot; extreme long shot; establishing shot; two shot; group shot; over the shoulder;
over the shoulder shot; point of view; pov; point of view shot; first person view; third person view; low angle; low angle shot;
high angle; high angle shot; eye level; eye level shot; dutch angle; tilted angle; bird's eye view; birds eye view; worm's eye view;
worms eye view; aerial view; aerial shot; drone shot; drone view; top down; top down view; overhead shot; overhead view; ground level;
front view; side view; back view; rear view; three quarter view; isometric view; view; wide angle; wide angle lens; ultra wide angle;
fisheye; fisheye lens; telephoto; telephoto lens; zoom lens; prime lens; macro lens; tilt shift; tilt shift lens; anamorphic;
anamorphic lens; 14mm; 24mm; 24mm lens; 28mm; 35mm; 35mm lens; 50mm; 50mm lens; 85mm; 85mm lens; 100mm; 135mm; 200mm; 300mm; lens;
depth of field; shallow depth of field; deep depth of field; deep focus; bokeh; sharp focus; soft focus; in focus; out of focus;
rack focus; motion blur; long exposure; double exposure; f1.4; f1.8; f2.8; f8; iso 100; iso 400; iso 800; dslr; centered;
centered composition; symmetrical; symmetrical composition; rule of thirds; leading lines; negative space; framing; composition;
cropped; vignette; frame; portrait orientation; landscape orientation; panorama; panoramic; panoramic view; 360 view
"""

# What a camera does over time. The second list also fits a still.
MOVEMENTS: Final = """
pan; pan left; pan right; pan up; pan down; slow pan; whip pan; panning shot; panning; tilt up; tilt down; slow tilt; dolly; dolly in;
dolly out; dolly shot; dolly zoom; zoom in; zoom out; slow zoom; crash zoom; push in; slow push in; pull back; pull out; slow pull back;
truck left; truck right; trucking shot; tracking shot; tracking; follow shot; follow cam; following shot; crane shot; crane up;
crane down; jib shot; boom up; boom down; pedestal up; pedestal down; arc shot; orbit; orbit shot; orbiting shot; 360 orbit; steadicam;
steadicam shot; handheld; handheld camera; handheld shot; camera shake; shaky cam; flythrough; fly through; flyover; fpv drone;
static camera; static shot; locked off shot; locked off camera; camera movement
"""
TEMPORAL: Final = """
slow motion; slow mo; time lapse; timelapse; hyperlapse; fast motion; stop motion; fade in; fade out; cross fade; dissolve; cut to;
jump cut; match cut; transition; looping; seamless loop; 24 fps; 30 fps; 60 fps; 24fps; 30fps; 60fps
"""

_STYLE = """
style; realistic; photorealistic; hyperrealistic; photo realistic; realism; photo; photograph; photography; raw photo; film
still; film photo; polaroid; analog photo; analog film; film grain; painting; oil painting; acrylic painting; watercolor;
watercolour; watercolor painting; watercolour painting; gouache; ink; ink drawing; ink wash; pencil; pencil drawing; pencil
sketch; sketch; charcoal; charcoal drawing; pastel; pastel colors; pastel colours; chalk; crayon; drawing; line art;
lineart; line drawing; illustration; digital art; digital painting; digital illustration; concept art; matte painting;
vector art; vector; flat; flat design; flat style; flat illustration; minimal; minimalist; minimalism; maximalist; abstract;
abstract art; surreal; surrealism; surrealist; impressionism; impressionist; expressionism; cubism; cubist; art nouveau; art
deco; baroque; renaissance; renaissance painting; rococo; gothic; romanticism; pop art; bauhaus; ukiyo e; pixel art; 8 bit;
16 bit; voxel; voxel art; low poly; isometric; 3d; 3d render; 3d rendering; render; cgi; octane render; unreal engine;
blender render; claymation; clay; papercraft; paper cut; origami; collage; mosaic; stained glass; graffiti; mural; poster;
sticker; icon; logo design; comic; comic book; comic style; manga; anime; anime style; cartoon; cartoon style; caricature;
chibi; disney style; pixar style; ghibli style; cel shaded; cel shading; cyberpunk; steampunk; solarpunk; vaporwave;
synthwave; retro; vintage; retro futuristic; futuristic; fantasy art; sci fi; science fiction; noir; film noir; cinematic;
cinematic style; epic; dreamy; whimsical; cute; kawaii; elegant; gritty; moody; ethereal; atmospheric; vibrant; vibrant
colors; vibrant colours; vivid colors; vivid colours; muted colors; muted colours; colorful; colourful; full color; full
colour; monochrome; black and white; grayscale; greyscale; sepia; high contrast; low contrast; warm colors; warm colours;
cool colors; cool colours; color grading; texture; textured; detailed; highly detailed; ultra detailed; extremely detailed;
intricate; intricate details; fine details; hyper detailed; masterpiece; best quality; high quality; ultra quality; 4k; 8k;
uhd; hdr; hd; high resolution; ultra high resolution; sharp; crisp; award winning; professional; professional photography;
trending on artstation; artstation; deviantart; unsplash; national geographic; noto style; noto; twemoji style; twemoji;
glossy style; glossy; blob style; blob
"""


PHRASES: Final[dict[tuple[str, ...], int]] = {
    tuple(phrase.split()): part
    for part, text in (
        (STYLE, _STYLE),
        (CAMERA, _CAMERA),
        (CAMERA, MOVEMENTS),
        (CAMERA, TEMPORAL),
        (LIGHT, _LIGHT),
        (POSE, _POSE),
        (ENVIRONMENT, _ENVIRONMENT),
    )
    for phrase in listed(text)
}
LONGEST: Final = max(map(len, PHRASES))
KNOWN: Final = frozenset(word for phrase in PHRASES for word in phrase)

ARTICLES: Final = frozenset({"a", "an", "the"})
NUMBERS: Final = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
QUANTITIES: Final = frozenset({*NUMBERS, "some", "several", "many", "few", "both", "another", "dozens", "hundreds"})
PLACES: Final = frozenset(
    listed(
        "in; on; at; inside; outside; within; under; over; near; beside; by; behind; above; below; beneath; against; atop; "
        "amid; among; between; through; across; along; around; before"
    )
)
# Words that hang on what was said before them.
CLINGING: Final = frozenset(
    listed(
        "and; or; nor; but; with; wearing; holding; carrying; having; that; who; which; whose; to; of; from; his; her; its; "
        "their; as; like; made"
    )
)
# What may stand behind a noun without belonging to it.
AFTER_NOUN: Final = (
    PLACES
    | CLINGING
    | frozenset(listed("is; are; was; were; be; being; during; while; where; when; because; for; into; onto; up; down"))
)
# Grammar: known to every model that reads sentences.
GRAMMAR: Final = (
    AFTER_NOUN
    | ARTICLES
    | frozenset(listed("it; this; that; these; those; there; very; so; too; not; no; without; toward; towards; than; then"))
)

# What cannot be in one picture at once; one with a bar behind it counts only as an item of its own ("a black and white cat").
OPPOSITES: Final = tuple(
    (listed(a), listed(b))
    for a, b in (
        (
            "black and white|; in black and white; black and white photo; black and white photograph; monochrome; grayscale;"
            " greyscale; sepia",
            "colorful; colourful; vibrant colors; vibrant colours; vivid colors; vivid colours; full color; full colour; rainbow colors",
        ),
        (
            "day; daytime; daylight; midday; noon; sunny; sunlight; sunny day",
            "night; nighttime; night time; midnight; moonlight; moonlit",
        ),
        ("sunrise; dawn", "sunset; dusk; sundown"),
        (
            "sunny; sunny day; clear sky; blue sky",
            "rainy; rainy day; overcast; overcast sky; stormy; heavy rain; thunderstorm; foggy",
        ),
        ("summer|; in summer", "winter|; in winter"),
        ("spring|", "autumn|"),
        ("indoors; indoor", "outdoors; outdoor"),
        (
            "close up; closeup; extreme close up; macro shot; head shot; headshot; close up shot",
            "wide shot; long shot; extreme wide shot; extreme long shot; establishing shot; full body; full body shot; full length;"
            " aerial view",
        ),
        (
            "low angle; low angle shot; worm's eye view",
            "high angle; high angle shot; bird's eye view; top down; top down view; overhead shot",
        ),
        ("wide angle; wide angle lens; fisheye; fisheye lens", "telephoto; telephoto lens"),
        ("shallow depth of field; bokeh", "deep focus; deep depth of field"),
        ("soft light; soft lighting; diffuse light", "hard light; hard lighting; harsh light; harsh lighting"),
        ("low key; low key lighting", "high key; high key lighting"),
        ("bright|; bright light; brightly lit", "dim|; dim light; dimly lit; darkness"),
        (
            "photorealistic; hyperrealistic; realistic; photograph; raw photo; photo realistic",
            "cartoon; cartoon style; anime; anime style; manga; pixel art; line art; flat illustration; abstract art; cel shaded; low poly",
        ),
        ("flat style; flat design; flat illustration", "3d render; 3d rendering; 3d|"),
        ("minimalist; minimalism; minimal|", "maximalist; intricate|; intricate details; cluttered"),
        ("high contrast", "low contrast"),
        ("vibrant colors; vibrant colours; vivid colors", "muted colors; muted colours"),
        ("warm colors; warm colours; warm light", "cool colors; cool colours; cool light; cold light"),
        ("symmetrical; symmetrical composition", "asymmetrical; asymmetrical composition"),
        ("sharp focus; in focus", "out of focus; soft focus"),
        ("portrait orientation", "landscape orientation"),
        ("empty|; empty street; deserted; uninhabited", "crowded; packed|; busy street"),
        ("front view", "back view; rear view"),
        (
            "static camera; static shot; locked off shot",
            "pan|; pan left; pan right; slow pan; tracking shot; dolly in; dolly out; orbit shot; handheld camera; crane shot",
        ),
    )
)

# Things that "X-free" is said of in pictures; most other words with -free ("sugar-free") name a thing of their own.
FREE_OF: Final = frozenset(
    listed(
        "cloud; text; people; noise; grain; blur; clutter; shadow; distraction; watermark; wrinkle; blemish; fog; car; "
        "traffic; dust; snow; artifact; crowd; logo; border; reflection; glare"
    )
)
# Words that are rightly said twice.
TWINS: Final = frozenset(listed("bora; cha; knock; tuk; pom; yo; night; had; that; bang; choo; tom; goody; hush; boo"))
