"""The names of flash-attn's padding helpers; they raise when called."""

from flash_attn import missing

index_first_axis = pad_input = rearrange = unpad_input = missing
