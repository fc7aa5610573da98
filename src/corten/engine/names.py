"""Names for containers that the user did not name: `adjective_surname` as with Docker, from our own lists.

The surnames are of people who built machines, instruments and notations.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Final


def _words(text: str) -> list[str]:
    return text.split()


_ADJECTIVES: Final = _words("""
    able agile airy alert amber ample apt ardent bold brave brief bright brisk calm candid careful
    cheerful civil clear clever cordial cosy crisp curious daring deft diligent eager early earnest
    easy even exact fair faithful fearless festive fine firm fluent fond frank free fresh friendly
    frugal gallant generous gentle glad golden graceful grand hardy hearty helpful honest hopeful
    humble jolly keen kind lasting lively loyal lucid lucky mellow merry mild modest neat nimble
    noble novel open orderly patient placid plain polite prompt proud quick quiet ready robust rosy
    rustic serene sharp silent silver sincere sleek smooth sober solid spry stately steady still
    stoic sturdy subtle sunny supple sure swift tender tidy timely tough tranquil trim true upbeat
    useful valiant vast vivid warm watchful witty zesty
""")

_SURNAMES: Final = _words("""
    abel adleman agnesi aho aiken allen ampere anning apgar ardern aspray atanasoff babbage bachmann
    backus bardeen bartik bayes bechtolsheim bell berners bessemer boole borg bose brahe brunel
    brunelleschi buckley cantor carnot cauchy cerf chandra church clarke codd cook corbato cray
    curie dahl daimler darby davies diesel diffie dijkstra dirac edison eckert engelbart erlang
    euler faggin faraday feinler fermi fitch floyd fourier franklin galois galvani gauss gilbreth
    goldstine gosling gray grosz gutenberg hamilton hamming hargreaves harrison hellman henry hertz
    hilbert hoare hollerith holberton hopper huffman huygens hypatia iverson jacquard jennings joule
    kapany karp kay kepler kernighan kilby kleene knuth kolmogorov kovalevsky lamarr lamport laplace
    lampson leavitt lederman leibniz lichterman liskov lovelace lukasiewicz marconi markov mauchly
    maxwell mccarthy meitner mercator metcalfe milner minsky morse moore naur needham newell
    nightingale noether noyce nygaard ohm otto papin parnas pascal peano perlman perlis planck
    postel prony rabin ramanujan reynolds ritchie roebling rotblat russell savery scott shamir
    shannon shockley siemens simon sketchley snyder spence stein stephenson stibitz strowger
    sutherland tarjan tarski telford tesla thompson torricelli torvalds trevithick turing ulam venn
    vinci volta wallace watt weinberg wescoff westinghouse wheatstone wheeler whitworth wiener
    wilkes wilkinson wirth wozniak yonath zuse
""")

# container.go, validContainerNamePattern
NAME_PATTERN: Final = re.compile(r"^/?[a-zA-Z0-9][a-zA-Z0-9_.-]+$")
NAME_CHARS: Final = "[a-zA-Z0-9][a-zA-Z0-9_.-]"


def random_name(is_taken: Callable[[str], bool]) -> str:
    """A free name without the leading slash; after five taken ones a digit is appended, as Docker does."""
    for attempt in range(1000):
        name = f"{random.choice(_ADJECTIVES)}_{random.choice(_SURNAMES)}"
        if attempt >= 5:
            name += str(random.randrange(10 ** (attempt // 100 + 1)))
        if not is_taken(name):
            return name
    raise RuntimeError("no free container name in 1000 tries")
