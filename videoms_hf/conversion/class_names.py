# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""The classes that a converted classifier knows, in the order in which its authors numbered them.

UCF101 is numbered by its classInd.txt, Something-Something V2 by its labels.json, HMDB51 and Kinetics-400 by the
alphabet. Kinetics-400's names are those that torchvision has.
"""

import json
import os
from pathlib import Path
from typing import NamedTuple

from ..data.labels import read_class_names
from ..files import read_text


class KnownDataSet(NamedTuple):
    """A benchmark: its classes in the official order, and the stride of clips in the recipes for it."""

    class_names: tuple[str, ...]
    frame_stride: int


def known_data_set(name: str) -> KnownDataSet | None:
    """The benchmark of that name, however it is written (`Kinetics-400`, `kinetics400`); `None` if it is no benchmark.

    Known are UCF101, HMDB51, Kinetics-400 (K400), SSv2 (Something-Something V2) and OSCC (of Ego4D).
    """
    key = "".join(filter(str.isalnum, name.lower()))
    if key in ("kinetics400", "k400"):
        return KnownDataSet(_kinetics_400(), 4)
    return _DATA_SETS.get(key)


def read_labels(source: str | os.PathLike) -> list[str]:
    """The class names of a known data set, or of a file, in the order of their numbers.

    A file has a name a line, maybe with its number before it from 0 or from 1 (as UCF101's classInd.txt); or it is
    JSON that maps each name to its number (as SSv2's labels.json).

    Raises:
        ValueError: there is neither such a data set nor such a file, or the file's numbers have gaps or come twice.
    """
    known = known_data_set(os.fspath(source))
    if known is not None and not Path(source).is_file():
        return list(known.class_names)
    path = Path(source)
    if not path.is_file():
        raise ValueError(
            f"labels is {os.fspath(source)!r}; it must be a file of class names, or one of UCF101, HMDB51, "
            "Kinetics-400, SSv2, OSCC"
        )
    if path.suffix.lower() == ".json":
        return _read_json(path)
    return read_class_names(path)


def _read_json(path: Path) -> list[str]:
    try:
        numbers = {name: int(number) for name, number in json.loads(read_text(path)).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} must be JSON that maps class names to their numbers ({error})") from error
    names = sorted(numbers, key=numbers.get)
    if [numbers[name] for name in names] != list(range(len(names))):
        raise ValueError(f"{path} must give each of its {len(names)} classes another number, from 0 without a gap")
    return names


def _kinetics_400() -> tuple[str, ...]:
    from torchvision.models.video import MViT_V2_S_Weights  # late: it brings all of torchvision's video networks

    return tuple(MViT_V2_S_Weights.KINETICS400_V1.meta["categories"])


_UCF101 = """
ApplyEyeMakeup ApplyLipstick Archery BabyCrawling BalanceBeam BandMarching BaseballPitch Basketball BasketballDunk
BenchPress Biking Billiards BlowDryHair BlowingCandles BodyWeightSquats Bowling BoxingPunchingBag BoxingSpeedBag
BreastStroke BrushingTeeth CleanAndJerk CliffDiving CricketBowling CricketShot CuttingInKitchen Diving Drumming Fencing
FieldHockeyPenalty FloorGymnastics FrisbeeCatch FrontCrawl GolfSwing Haircut Hammering HammerThrow HandstandPushups
HandstandWalking HeadMassage HighJump HorseRace HorseRiding HulaHoop IceDancing JavelinThrow JugglingBalls JumpingJack
JumpRope Kayaking Knitting LongJump Lunges MilitaryParade Mixing MoppingFloor Nunchucks ParallelBars PizzaTossing
PlayingCello PlayingDaf PlayingDhol PlayingFlute PlayingGuitar PlayingPiano PlayingSitar PlayingTabla PlayingViolin
PoleVault PommelHorse PullUps Punch PushUps Rafting RockClimbingIndoor RopeClimbing Rowing SalsaSpin ShavingBeard
Shotput SkateBoarding Skiing Skijet SkyDiving SoccerJuggling SoccerPenalty StillRings SumoWrestling Surfing Swing
TableTennisShot TaiChi TennisSwing ThrowDiscus TrampolineJumping Typing UnevenBars VolleyballSpiking WalkingWithDog
WallPushups WritingOnBoard YoYo
"""

_HMDB51 = """
brush_hair cartwheel catch chew clap climb climb_stairs dive draw_sword dribble drink eat fall_floor fencing flic_flac
golf handstand hit hug jump kick kick_ball kiss laugh pick pour pullup punch push pushup ride_bike ride_horse run
shake_hands shoot_ball shoot_bow shoot_gun sit situp smile smoke somersault stand swing_baseball sword sword_exercise
talk throw turn walk wave
"""

_SOMETHING_SOMETHING_V2 = """
Approaching something with your camera
Attaching something to something
Bending something so that it deforms
Bending something until it breaks
Burying something in something
Closing something
Covering something with something
Digging something out of something
Dropping something behind something
Dropping something in front of something
Dropping something into something
Dropping something next to something
Dropping something onto something
Failing to put something into something because something does not fit
Folding something
Hitting something with something
Holding something
Holding something behind something
Holding something in front of something
Holding something next to something
Holding something over something
Laying something on the table on its side, not upright
Letting something roll along a flat surface
Letting something roll down a slanted surface
Letting something roll up a slanted surface, so it rolls back down
Lifting a surface with something on it but not enough for it to slide down
Lifting a surface with something on it until it starts sliding down
Lifting something up completely without letting it drop down
Lifting something up completely, then letting it drop down
Lifting something with something on it
Lifting up one end of something without letting it drop down
Lifting up one end of something, then letting it drop down
Moving away from something with your camera
Moving part of something
Moving something across a surface until it falls down
Moving something across a surface without it falling down
Moving something and something away from each other
Moving something and something closer to each other
Moving something and something so they collide with each other
Moving something and something so they pass each other
Moving something away from something
Moving something away from the camera
Moving something closer to something
Moving something down
Moving something towards the camera
Moving something up
Opening something
Picking something up
Piling something up
Plugging something into something
Plugging something into something but pulling it right out as you remove your hand
Poking a hole into some substance
Poking a hole into something soft
Poking a stack of something so the stack collapses
Poking a stack of something without the stack collapsing
Poking something so it slightly moves
Poking something so lightly that it doesn't or almost doesn't move
Poking something so that it falls over
Poking something so that it spins around
Pouring something into something
Pouring something into something until it overflows
Pouring something onto something
Pouring something out of something
Pretending or failing to wipe something off of something
Pretending or trying and failing to twist something
Pretending to be tearing something that is not tearable
Pretending to close something without actually closing it
Pretending to open something without actually opening it
Pretending to pick something up
Pretending to poke something
Pretending to pour something out of something, but something is empty
Pretending to put something behind something
Pretending to put something into something
Pretending to put something next to something
Pretending to put something on a surface
Pretending to put something onto something
Pretending to put something underneath something
Pretending to scoop something up with something
Pretending to spread air onto something
Pretending to sprinkle air onto something
Pretending to squeeze something
Pretending to take something from somewhere
Pretending to take something out of something
Pretending to throw something
Pretending to turn something upside down
Pulling something from behind of something
Pulling something from left to right
Pulling something from right to left
Pulling something onto something
Pulling something out of something
Pulling two ends of something but nothing happens
Pulling two ends of something so that it gets stretched
Pulling two ends of something so that it separates into two pieces
Pushing something from left to right
Pushing something from right to left
Pushing something off of something
Pushing something onto something
Pushing something so it spins
Pushing something so that it almost falls off but doesn't
Pushing something so that it falls off the table
Pushing something so that it slightly moves
Pushing something with something
Putting number of something onto something
Putting something and something on the table
Putting something behind something
Putting something in front of something
Putting something into something
Putting something next to something
Putting something on a flat surface without letting it roll
Putting something on a surface
Putting something on the edge of something so it is not supported and falls down
Putting something onto a slanted surface but it doesn't glide down
Putting something onto something
Putting something onto something else that cannot support it so it falls down
Putting something similar to other things that are already on the table
Putting something that can't roll onto a slanted surface, so it slides down
Putting something that can't roll onto a slanted surface, so it stays where it is
Putting something that cannot actually stand upright upright on the table, so it falls on its side
Putting something underneath something
Putting something upright on the table
Putting something, something and something on the table
Removing something, revealing something behind
Rolling something on a flat surface
Scooping something up with something
Showing a photo of something to the camera
Showing something behind something
Showing something next to something
Showing something on top of something
Showing something to the camera
Showing that something is empty
Showing that something is inside something
Something being deflected from something
Something colliding with something and both are being deflected
Something colliding with something and both come to a halt
Something falling like a feather or paper
Something falling like a rock
Spilling something behind something
Spilling something next to something
Spilling something onto something
Spinning something so it continues spinning
Spinning something that quickly stops spinning
Spreading something onto something
Sprinkling something onto something
Squeezing something
Stacking number of something
Stuffing something into something
Taking one of many similar things on the table
Taking something from somewhere
Taking something out of something
Tearing something into two pieces
Tearing something just a little bit
Throwing something
Throwing something against something
Throwing something in the air and catching it
Throwing something in the air and letting it fall
Throwing something onto a surface
Tilting something with something on it slightly so it doesn't fall down
Tilting something with something on it until it falls off
Tipping something over
Tipping something with something in it over, so something in it falls out
Touching (without moving) part of something
Trying but failing to attach something to something because it doesn't stick
Trying to bend something unbendable so nothing happens
Trying to pour something into something, but missing so it spills next to it
Turning something upside down
Turning the camera downwards while filming something
Turning the camera left while filming something
Turning the camera right while filming something
Turning the camera upwards while filming something
Twisting (wringing) something wet until water comes out
Twisting something
Uncovering something
Unfolding something
Wiping something off of something
"""

_SSV2 = KnownDataSet(tuple(_SOMETHING_SOMETHING_V2.strip().split("\n")), 2)
_OSCC = KnownDataSet(("no state change", "state change"), 10)
_DATA_SETS = {
    "ucf101": KnownDataSet(tuple(_UCF101.split()), 4),
    "hmdb51": KnownDataSet(tuple(_HMDB51.split()), 2),
    "ssv2": _SSV2,
    "somethingsomethingv2": _SSV2,
    "oscc": _OSCC,
    "ego4doscc": _OSCC,
}
