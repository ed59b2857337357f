"""Sprite scenes: an endless, labelled set of small pictures with captions in plain grammar, composed on the device.

    nouns     what each icon is called: article, plural, second name
    words     the closed lists: styles, colours, backgrounds, templates, relations, corners
    draws     counter-based integers: a scene depends on (seed, step, index) only, never on the device or the batch
    sprites   the packed asset, read into one table and one flat bank of pre-scaled pixels
    splits    what is held out, by hash
    compose   Composer: draw (parameters), render (pixels)
    captions  phrases -> strings, or token ids by gather
    truth     what a scene shows, as a record
    prompts   held-out and seen prompts with their truth
    rules     the machine checker of adherence
    sheet     a labelled contact sheet

Nothing is imported here: `from safelight.data.scenes.compose import Composer`.
"""
