"""What runs beside a program in its interpreter, in whichever engine's jail: standard library only, imported at once.

It builds no wall and reports to nobody who trusts it: a program can change anything here, and so fool itself.
"""
